//! One peer, once: from an empty disk to a built project, with what it cost.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::link::Link;
use crate::process::{self, Usage};

/// What a peer reaches in the order in which it does, each in seconds and bytes since the run began.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Run {
    /// The store can be used: any of its files can be read at its place.
    pub ready: Mark,
    /// `nix develop --offline --command true` has returned.
    pub develop: Mark,
    /// `nix build --offline` of the changed project has returned.
    pub build: Mark,
    /// Further commands, by name: the seconds that each took, one after another behind the build.
    pub commands: BTreeMap<String, f64>,
    /// Processor time of all of the peer's processes, in seconds.
    pub cpu_seconds: f64,
    /// The largest resident set of any one of them, in bytes.
    pub max_resident: u64,
    /// Processor time of the link's relay, in seconds: not in `cpu_seconds`.
    pub relay_cpu_seconds: f64,
    /// Share of the run's time in which some process of the machine waited for a processor, from 0 to 1.
    pub cpu_pressure: f64,
}

impl Run {
    /// The median of each quantity. There must be one run at least.
    pub(crate) fn median(runs: &[&Self]) -> Self {
        let of = |quantity: &dyn Fn(&Self) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(|run| quantity(run)).collect();
            values.sort_by(f64::total_cmp);
            middle(&values).map_or(0.0, |(lower, upper)| f64::midpoint(lower, upper))
        };
        let whole = |quantity: &dyn Fn(&Self) -> u64| {
            let mut values: Vec<u64> = runs.iter().map(|run| quantity(run)).collect();
            values.sort_unstable();
            middle(&values).map_or(0, |(lower, upper)| u64::midpoint(lower, upper))
        };
        let mark = |at: &dyn Fn(&Self) -> Mark| Mark {
            seconds: of(&|run| at(run).seconds),
            bytes: whole(&|run| at(run).bytes),
        };
        // Every run of a peer has the same commands.
        let names = runs.first().map(|run| run.commands.keys()).into_iter().flatten();
        let commands = names
            .map(|name| (name.clone(), of(&|run| run.commands.get(name).copied().unwrap_or(f64::NAN))))
            .collect();
        Self {
            ready: mark(&|run| run.ready),
            develop: mark(&|run| run.develop),
            build: mark(&|run| run.build),
            commands,
            cpu_seconds: of(&|run| run.cpu_seconds),
            max_resident: whole(&|run| run.max_resident),
            relay_cpu_seconds: of(&|run| run.relay_cpu_seconds),
            cpu_pressure: of(&|run| run.cpu_pressure),
        }
    }
}

/// The two in the middle of sorted values, between which the median is; of an odd number the same one twice.
fn middle<T: Copy>(sorted: &[T]) -> Option<(T, T)> {
    let upper = sorted.len() / 2;
    let lower = sorted.len().checked_sub(1)? / 2;
    Some((*sorted.get(lower)?, *sorted.get(upper)?))
}

/// A moment of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Mark {
    pub seconds: f64,
    /// Received by the client since the run began.
    pub bytes: u64,
}

impl Mark {
    pub(crate) fn megabytes(self) -> f64 {
        self.bytes as f64 / 1e6
    }
}

/// What a peer's script is told; see `peers/session.sh`.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub script: &'a Path,
    pub environment: Vec<(&'static str, String)>,
}

impl Session<'_> {
    /// Lets the peer put its files where the servers find them.
    pub(crate) fn prepare(&self, link: &Link) -> Result<()> {
        let mut command = self.command("prepare");
        let status = link
            .server()
            .run(|| command.stdin(Stdio::null()).status())?
            .with_context(|| format!("cannot start {}", self.script.display()))?;
        if !status.success() {
            bail!("{} prepare: {status}", self.script.display());
        }
        Ok(())
    }

    /// Runs the peer once.
    pub(crate) fn run(&self, link: &Link) -> Result<Run> {
        let mut command = self.contained(&["run"]);
        let received = link.received()?;
        let relay = link.relay_time();
        let pressure = cpu_pressure()?;
        let start = Instant::now();
        let mut child =
            link.client().run(|| command.spawn())?.context("cannot start unshare (package util-linux)")?;
        let marks = child.stdout.take().context("a child without the pipe that it was given")?;

        let reached = collect(marks, || {
            Ok(Mark { seconds: start.elapsed().as_secs_f64(), bytes: link.received()? - received })
        });
        let usage = process::wait(child);
        let elapsed = start.elapsed();
        let Usage { status, cpu, max_resident } = usage?;
        if !status.success() {
            bail!("{} run: {status}", self.script.display());
        }
        let Reached { ready, develop, build, commands } =
            reached.with_context(|| format!("{} run", self.script.display()))?;
        Ok(Run {
            ready,
            develop,
            build,
            commands,
            cpu_seconds: cpu.as_secs_f64(),
            max_resident,
            relay_cpu_seconds: (link.relay_time() - relay).as_secs_f64(),
            cpu_pressure: (cpu_pressure()? - pressure).as_secs_f64() / elapsed.as_secs_f64(),
        })
    }

    /// Runs a script of figures, and gives the lines that it prints.
    pub(crate) fn figures(&self, link: &Link) -> Result<Vec<Figure>> {
        let mut command = self.contained(&[]);
        let output = link
            .client()
            .run(|| command.stderr(Stdio::inherit()).output())?
            .context("cannot start unshare")?;
        if !output.status.success() {
            bail!("{}: {}", self.script.display(), output.status);
        }
        String::from_utf8(output.stdout).context("figures in UTF-8")?.lines().map(Figure::parse).collect()
    }

    /// The script in a process namespace of its own: whatever it leaves running ends with it, and its processor
    /// time is counted. In a mount namespace too, so that its mounts end as well.
    fn contained(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
            "--propagation",
            "private",
            "--",
        ]);
        command.arg(self.script).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(self.script);
        command.arg(verb).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// One figure beside time-to-build, and what it is compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// By which the targets know it.
    pub id: String,
    pub name: String,
    pub ours: f64,
    pub other: Option<f64>,
    pub unit: String,
}

impl Figure {
    /// Parses `ID <tab> NAME <tab> OURS <tab> OTHER or - <tab> UNIT`.
    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [id, name, ours, other, unit] = fields.as_slice() else { bail!("{line:?} is no figure") };
        let number = |text: &str| text.parse::<f64>().with_context(|| format!("{text:?} in {line:?}"));
        Ok(Self {
            id: (*id).to_owned(),
            name: (*name).to_owned(),
            ours: number(ours)?,
            other: if *other == "-" { None } else { Some(number(other)?) },
            unit: (*unit).to_owned(),
        })
    }

    /// How many times the other one's value this is.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.other.map(|other| self.ours / other)
    }
}

/// The marks of a run.
#[derive(Debug, PartialEq)]
struct Reached {
    ready: Mark,
    develop: Mark,
    build: Mark,
    commands: BTreeMap<String, f64>,
}

/// Takes the time of each mark as its name arrives, until the peer has ended.
fn collect(names: impl Read, mut now: impl FnMut() -> Result<Mark>) -> Result<Reached> {
    let mut marks = Vec::new();
    for name in BufReader::new(names).lines() {
        let name = name.context("cannot read a mark")?;
        marks.push((name, now()?));
    }
    let names: Vec<&str> = marks.iter().map(|(name, _)| name.as_str()).collect();
    let (["ready", "develop", "build", others @ ..], [(_, ready), (_, develop), (_, build), ..]) =
        (names.as_slice(), marks.as_slice())
    else {
        bail!("the marks that came are {names:?}")
    };
    let mut commands = BTreeMap::new();
    for (name, pair) in others.iter().zip(marks[2..].windows(2)) {
        let took = pair[1].1.seconds - pair[0].1.seconds;
        if commands.insert((*name).to_owned(), took).is_some() {
            bail!("the mark {name} came twice: {names:?}");
        }
    }
    Ok(Reached { ready: *ready, develop: *develop, build: *build, commands })
}

/// How long some process has waited for a processor since the machine started.
fn cpu_pressure() -> Result<Duration> {
    let text = fs::read_to_string("/proc/pressure/cpu").context("/proc/pressure/cpu")?;
    let microseconds = text
        .lines()
        .find_map(|line| line.strip_prefix("some "))
        .and_then(|fields| fields.split("total=").nth(1)?.trim().parse().ok())
        .context("no total in /proc/pressure/cpu")?;
    Ok(Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(text: &str) -> Result<Reached> {
        let mut clock = 0.0;
        collect(text.as_bytes(), || {
            clock += 1.0;
            Ok(Mark { seconds: clock * clock, bytes: 7 })
        })
    }

    #[test]
    fn figures_are_lines_of_five_fields() {
        let figure = Figure::parse("pack\tpack it\t1.5\t3\ts").unwrap();
        assert_eq!((figure.ours, figure.other, figure.ratio()), (1.5, Some(3.0), Some(0.5)));
        assert_eq!(Figure::parse("memory\tof all\t80\t-\tMB").unwrap().ratio(), None);
        for wrong in ["", "pack\tp\t1.5\t3", "pack\tp\tx\t3\ts", "pack\tp\t1\t\ts"] {
            assert!(Figure::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn marks_come_in_order_and_all() {
        let at = |seconds| Mark { seconds, bytes: 7 };
        let reached = marks("ready\ndevelop\nbuild\ncompile\njava\n").unwrap();
        assert_eq!((reached.ready, reached.develop, reached.build), (at(1.0), at(4.0), at(9.0)));
        assert_eq!(reached.commands, BTreeMap::from([("compile".into(), 7.0), ("java".into(), 9.0)]));
        assert!(marks("ready\ndevelop\nbuild\n").unwrap().commands.is_empty());
        for wrong in
            ["", "ready\n", "develop\nbuild\n", "ready\nbuild\ndevelop\n", "ready\ndevelop\nbuild\nx\nx\n"]
        {
            assert!(marks(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle() {
        for (sorted, expected) in [
            (&[][..], None),
            (&[3], Some((3, 3))),
            (&[1, 4], Some((1, 4))),
            (&[1, 2, 9], Some((2, 2))),
            (&[1, 2, 4, 9], Some((2, 4))),
        ] {
            assert_eq!(middle(sorted), expected, "{sorted:?}");
        }
        let run = |seconds, bytes| Run {
            build: Mark { seconds, bytes },
            commands: BTreeMap::from([("java".to_owned(), seconds)]),
            ..Run::default()
        };
        let middle = Run::median(&[&run(4.0, 10), &run(2.0, 20)]);
        assert_eq!((middle.build, middle.commands["java"]), (Mark { seconds: 3.0, bytes: 15 }, 3.0));
    }
}
