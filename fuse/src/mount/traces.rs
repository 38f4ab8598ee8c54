//! What the traces of a seed say will be read, asked for while the seed is opened.
//!
//! Nothing waits for a trace, and nothing fails by one: it is a hint from whoever could write to the place. It
//! says only in which order chunks are fetched that the index names and that are verified like any others.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

use seed_format::trace::{MAX_TRACE_LEN, Trace};
use seed_format::{Chain, Digest};
use seed_image::manifest::Descriptor;
use seed_image::traces::{self, Listed, TracesError};
use seed_image::transport::Transport;
use serde::{Deserialize, Serialize};

use crate::fetch::{ChunkId, Fetcher};
use crate::index::SeedIndex;
use crate::stats::{Counters, add};

/// Most traces of one seed that are used together.
const MAX_USED: usize = 16;
/// Which traces say what is fetched ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceChoice {
    /// None.
    None,
    /// Those of all targets that the seed has traces of.
    #[default]
    All,
    /// For each of these, the traces that the first of its selectors finds which finds any.
    Targets(Vec<Vec<String>>),
    /// The one in this file.
    File(PathBuf),
}

/// Why a trace that the user named cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceFileError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold a trace of the seed.
    #[error("{} cannot be used", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<TracesError>,
    },
}

impl TraceChoice {
    /// What a user writes: `none`, `all`, a file, or a selector.
    pub fn written(text: &str) -> Self {
        match text {
            "none" => Self::None,
            "all" => Self::All,
            _ if Path::new(text).is_file() => {
                Self::File(std::path::absolute(text).unwrap_or_else(|_| text.into()))
            }
            _ => Self::Targets(vec![vec![text.to_owned()]]),
        }
    }

    /// Picks from what there is.
    fn pick(&self, listed: Vec<Listed>) -> Vec<Listed> {
        let selectors: Vec<&str> = match self {
            Self::None | Self::File(_) => return Vec::new(),
            Self::All => vec!["all"],
            Self::Targets(targets) => {
                targets.iter().filter_map(|any| first_that_finds(any, &listed)).collect()
            }
        };
        let picked = |listed: &Listed| selectors.iter().any(|selector| selects(selector, &listed.target));
        listed.into_iter().filter(picked).take(MAX_USED).collect()
    }
}

fn first_that_finds<'a>(selectors: &'a [String], listed: &[Listed]) -> Option<&'a str> {
    let finds = |selector: &&String| listed.iter().any(|listed| selects(selector, &listed.target));
    selectors.iter().find(finds).map(String::as_str)
}

/// Whether a selector means a target, such as `build packages.x86_64-linux.hello`. It is `all`, a purpose
/// (`build`), an attribute or the end of one (`hello`, also `.#hello`), or both (`build hello`).
pub fn selects(selector: &str, target: &str) -> bool {
    let (purpose, attribute) = target.split_once(' ').unwrap_or((target, ""));
    let means = |wanted: &str| {
        let wanted = wanted.split_once('#').map_or(wanted, |(_, attribute)| attribute);
        attribute.strip_suffix(wanted).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    if ["all", target, purpose].contains(&selector) {
        return true;
    }
    match selector.split_once(' ') {
        Some((wanted, rest)) => wanted == purpose && means(rest),
        None => means(selector),
    }
}

/// Traces on their way, in a thread of their own.
pub(super) struct Coming(SyncSender<Ready>);

/// What traces are good for, once the seed is open.
struct Ready {
    index: Arc<SeedIndex>,
    fetcher: Weak<Fetcher>,
    counters: Arc<Counters>,
    whole: bool,
}

/// Asks for the traces of a seed, of which nothing but the digest is known yet. A file is read at once.
pub(super) fn ask(
    transport: &Arc<dyn Transport>,
    seed: &Digest,
    choice: &TraceChoice,
) -> Result<Option<Coming>, TraceFileError> {
    let from_file = match choice {
        TraceChoice::None => return Ok(None),
        TraceChoice::File(path) => vec![(read_file(path, seed)?, None)],
        TraceChoice::All | TraceChoice::Targets(_) => Vec::new(),
    };
    let (send, receive) = sync_channel(1);
    let (transport, seed, choice) = (Arc::clone(transport), *seed, choice.clone());
    let bring = move || {
        let traces = if from_file.is_empty() { gather(&*transport, &seed, &choice) } else { from_file };
        use_them(traces, &receive);
    };
    // Without threads, the mount does without.
    let thread = thread::Builder::new().name("trace".into()).spawn(bring);
    Ok(thread.is_ok().then_some(Coming(send)))
}

impl Coming {
    /// Says what the traces are for: from now on, they are used when they are there. `whole`: all of the seed
    /// is fetched anyway.
    pub(super) fn are_for(
        self,
        index: &Arc<SeedIndex>,
        fetcher: &Arc<Fetcher>,
        counters: &Arc<Counters>,
        whole: bool,
    ) {
        let (index, counters) = (Arc::clone(index), Arc::clone(counters));
        let ready = Ready { index, fetcher: Arc::downgrade(fetcher), counters, whole };
        // If the thread has died, there are no traces.
        let _ = self.0.try_send(ready);
    }
}

fn read_file(path: &Path, seed: &Digest) -> Result<Trace, TraceFileError> {
    let failed = |source| TraceFileError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_TRACE_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    traces::of_seed(&bytes, seed)
        .map_err(|source| TraceFileError::Trace { path: path.to_owned(), source: Box::new(source) })
}

/// A trace, and its bundle if it has one.
type Bundled = (Trace, Option<Descriptor>);

/// The traces that are there and can be read.
fn gather(transport: &dyn Transport, seed: &Digest, choice: &TraceChoice) -> Vec<Bundled> {
    let listed = match traces::list(transport, seed) {
        Ok(listed) => choice.pick(listed),
        Err(error) => {
            tracing::info!(error = %Chain(&error), "traces cannot be asked for");
            return Vec::new();
        }
    };
    thread::scope(|scope| {
        let reading: Vec<_> =
            listed.iter().map(|listed| scope.spawn(|| traces::read(transport, seed, listed))).collect();
        let read = reading.into_iter().zip(&listed).filter_map(|(reading, listed)| match reading.join() {
            Ok(Ok(trace)) => Some((trace, listed.bundle.clone())),
            Ok(Err(error)) => {
                let target = &listed.target;
                tracing::warn!(target, error = %Chain(&error), "a trace is of no use");
                None
            }
            Err(_) => None,
        });
        read.collect()
    })
}

fn use_them(traces: Vec<Bundled>, ready: &Receiver<Ready>) {
    let Ok(Ready { index, fetcher, counters, whole }) = ready.recv() else { return };
    // Its failure is told by whoever needs it.
    let Ok(chunks) = index.whole() else { return };
    let Some(fetcher) = fetcher.upgrade() else { return };
    let seed = chunks.layers().iter().map(|layer| layer.size).sum();
    // Also where all of the seed is fetched in the end: a bundle that is wrong is fetched in vain.
    let mut left = traces::limit(seed);
    let mut others = Vec::new();
    for (trace, bundle) in traces {
        add(&counters.traced_chunks, trace.chunk_count());
        let Some(bundle) = bundle else {
            others.push(trace);
            continue;
        };
        let (offsets, size) = traces::offsets(chunks, &trace);
        if size == bundle.size {
            tracing::debug!(target = trace.target, size, "a bundle brings what will be read");
            left -= fetcher.prefetch_bundle(bundle.digest, offsets, left);
        } else {
            tracing::warn!(target = trace.target, size, "the bundle of a trace has another size");
            others.push(trace);
        }
    }
    let left = if whole { u64::MAX } else { left };
    tracing::debug!(traces = others.len(), "traces without a bundle say what will be read");
    fetcher.prefetch(merge(&others), left);
}

/// The chunks of all traces, in the order of their times: what every target needs first, comes first.
fn merge(traces: &[Trace]) -> Vec<ChunkId> {
    let mut runs: Vec<_> = traces.iter().flat_map(|trace| &trace.runs).collect();
    runs.sort_by_key(|run| run.at_ms);
    runs.into_iter().flat_map(|run| run.chunks()).collect()
}

#[cfg(test)]
mod tests {
    use seed_image::manifest::Descriptor;

    use super::*;

    fn listed(target: &str) -> Listed {
        Listed {
            target: target.into(),
            recorded: 0,
            blob: Descriptor::new("", Digest::of(b""), 0),
            bundle: None,
        }
    }

    #[test]
    fn selectors_mean_targets() {
        for (selector, target, means) in [
            ("all", "build packages.x86_64-linux.hello", true),
            ("build", "build packages.x86_64-linux.hello", true),
            ("hello", "build packages.x86_64-linux.hello", true),
            ("ello", "build packages.x86_64-linux.hello", false),
            (".#hello", "build packages.x86_64-linux.hello", true),
            ("build .#hello", "build packages.x86_64-linux.hello", true),
            ("build packages.x86_64-linux.hello", "build packages.x86_64-linux.hello", true),
            ("develop hello", "build packages.x86_64-linux.hello", false),
            ("develop", "build packages.x86_64-linux.hello", false),
            ("command make test", "command make test", true),
            ("command", "command make test", true),
        ] {
            assert_eq!(selects(selector, target), means, "{selector}: {target}");
        }
    }

    #[test]
    fn the_first_selector_that_finds_something_counts() {
        let targets = ["build p.s.a", "build p.s.b", "develop d.s.default"];
        let pick = |choice: &TraceChoice| -> Vec<String> {
            choice.pick(targets.map(listed).into()).into_iter().map(|listed| listed.target).collect()
        };
        let wanted = |list: &[&[&str]]| {
            let each = |any: &&[&str]| any.iter().map(|&selector| selector.to_owned()).collect();
            TraceChoice::Targets(list.iter().map(each).collect())
        };
        assert_eq!(pick(&wanted(&[&["build a", "build"]])), [targets[0]]);
        assert_eq!(pick(&wanted(&[&["build c", "build"]])), targets[..2]);
        assert_eq!(pick(&wanted(&[&["develop ci", "develop"], &["build b"]])), targets[1..]);
        assert!(pick(&wanted(&[&["run x"]])).is_empty());
        assert_eq!(pick(&TraceChoice::All), targets);
        assert!(pick(&TraceChoice::None).is_empty());
    }

    #[test]
    fn several_traces_are_used_in_the_order_of_time() {
        let trace = |touched: &[(u32, u32)]| Trace::of(Digest::of(b""), "t".into(), 0, touched);
        let merged = merge(&[trace(&[(1, 0), (2, 1), (9, 50)]), trace(&[(1, 0), (2, 2), (5, 30)])]);
        assert_eq!(merged, [1, 2, 1, 2, 5, 9]);
    }
}
