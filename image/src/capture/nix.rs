//! Nix, as a program to be run: found, asked for its version, run with an environment of our own.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use seed_format::StorePath;
use seed_format::json::{self, JsonError};
use serde::de::DeserializeOwned;

/// Longest answer that is read from Nix, in bytes.
const MAX_OUTPUT: u64 = 256 << 20;

/// How much of the end of Nix's messages an error shows, in lines.
const SHOWN_LINES: usize = 20;

/// Longest line of Nix's messages that is read whole, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// Variables that reach Nix: who and where the user is, how the network is reached, and how Nix was
/// configured on this machine. Search paths, the caches and every `NIX_*` that changes a result stay out.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "NIX_CONF_DIR",
    "NIX_USER_CONF_FILES",
    "NIX_REMOTE",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
    "GIT_CONFIG_GLOBAL",
];

/// Why a command of Nix did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    /// There is no such program.
    #[error("no `{0}` on PATH: a seed is made with Nix 2.8 or newer")]
    NotFound(&'static str),
    /// The program could not be started or talked to.
    #[error("cannot run {command}")]
    Run {
        /// The command.
        command: String,
        /// The system's error.
        source: io::Error,
    },
    /// It is not a Nix that can be used.
    #[error("{} says {text:?} where its version was expected: Nix 2.8 or newer is needed", program.display())]
    Version {
        /// The program.
        program: PathBuf,
        /// What it said.
        text: String,
    },
    /// The command failed.
    #[error("{command} failed ({status}):\n{stderr}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote.
        stderr: String,
    },
    /// The command wrote more than is read.
    #[error("{command} wrote more than {MAX_OUTPUT} bytes")]
    TooLong {
        /// The command.
        command: String,
    },
    /// The command wrote something else than the expected JSON.
    #[error("{command} wrote unexpected JSON")]
    Json {
        /// The command.
        command: String,
        /// What is wrong with it.
        source: JsonError,
    },
}

/// A version of Nix: major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2, in all of Nix that is used.
    pub major: u32,
    /// 8 of 2.8.0.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest Nix that is used.
pub const OLDEST: Version = Version { major: 2, minor: 8 };

/// A Nix that can be run.
#[derive(Debug, Clone)]
pub struct Nix {
    program: PathBuf,
    version: Version,
    full_version: String,
}

impl Nix {
    /// The `nix` of `PATH`.
    pub fn find() -> Result<Self, NixError> {
        Self::at(&on_path("nix").ok_or(NixError::NotFound("nix"))?)
    }

    /// The Nix whose program is `program`, with its `nix-store` beside it.
    pub fn at(program: &Path) -> Result<Self, NixError> {
        let mut nix = Self { program: program.to_owned(), version: OLDEST, full_version: String::new() };
        let output = nix.command("nix").arg("--version").output()?;
        let text = String::from_utf8_lossy(&output).trim().to_owned();
        let unusable = || NixError::Version { program: program.to_owned(), text: text.clone() };
        // `nix (Nix) 2.8.0`; other implementations name themselves in the brackets.
        let version = text.rsplit(' ').next().unwrap_or_default();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
            return Err(unusable());
        };
        nix.version = Version { major, minor };
        nix.full_version = version.to_owned();
        if nix.version < OLDEST { Err(unusable()) } else { Ok(nix) }
    }

    /// Where the program is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The store path that it is in, if it is in one.
    pub fn store_path(&self) -> Option<StorePath> {
        super::containing_store_path(&self.program.canonicalize().ok()?)
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its version, as it says it: `2.8.0`.
    pub fn full_version(&self) -> &str {
        &self.full_version
    }

    /// Begins a command: `nix`, or another name that Nix goes by (`nix-store`).
    pub(crate) fn command(&self, name: &str) -> NixCommand {
        NixCommand {
            program: self.program.with_file_name(name),
            arguments: Vec::new(),
            variables: Vec::new(),
            settings: String::new(),
            offline: false,
        }
    }
}

/// The program `name` in the directories of `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// A command of Nix, to be run once.
#[derive(Debug)]
pub(crate) struct NixCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    settings: String,
    offline: bool,
}

impl NixCommand {
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment.
    pub(crate) fn variable(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name, value.as_ref().to_owned()));
        self
    }

    /// Adds a line of configuration, which wins over the machine's.
    pub(crate) fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push_str(&format!("{name} = {value}\n"));
        self
    }

    /// Runs in a network namespace of its own, where there is no network.
    pub(crate) fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// Runs it and gives what it wrote.
    pub(crate) fn output(self) -> Result<Vec<u8>, NixError> {
        self.output_hearing(|line| Some(line.to_owned()))
    }

    /// Runs it and reads the JSON that it wrote.
    pub(crate) fn json<T: DeserializeOwned>(self) -> Result<T, NixError> {
        self.json_hearing(|line| Some(line.to_owned()))
    }

    /// Like [`Self::json`]; `hear` gets each line of messages, and says what of it a failure shows.
    pub(crate) fn json_hearing<T: DeserializeOwned>(
        self,
        hear: impl FnMut(&str) -> Option<String>,
    ) -> Result<T, NixError> {
        let command = self.shown();
        let output = self.output_hearing(hear)?;
        let limit = usize::try_from(MAX_OUTPUT).unwrap_or(usize::MAX);
        json::from_slice(&output, limit).map_err(|source| NixError::Json { command, source })
    }

    /// Like [`Self::output`]; `hear` gets each line of messages, and says what of it a failure shows.
    pub(crate) fn output_hearing(
        self,
        mut hear: impl FnMut(&str) -> Option<String>,
    ) -> Result<Vec<u8>, NixError> {
        let command = self.shown();
        let failed = |source| NixError::Run { command: command.clone(), source };
        let mut child = self.spawn().map_err(failed)?;
        // Both pipes are read at once: a full one would stop the child.
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).map(|_| bytes)
        });
        let mut last = LastLines::default();
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let heard = for_each_line(stderr, |line| {
            for line in hear(line).iter().flat_map(|text| text.lines()) {
                last.push(line);
            }
        });
        let output = reader.join().expect("reading a pipe does not panic");
        let status = child.wait().map_err(failed)?;
        heard.map_err(failed)?;
        let output = output.map_err(failed)?;
        if !status.success() {
            return Err(NixError::Failed { command, status, stderr: last.text() });
        }
        if output.len() as u64 > MAX_OUTPUT {
            return Err(NixError::TooLong { command });
        }
        Ok(output)
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = if self.offline {
            let mut command = Command::new("unshare");
            command.arg("--net");
            if !rustix::process::geteuid().is_root() {
                command.args(["--user", "--map-current-user"]);
            }
            command.arg("--").arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.env_clear();
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let configured = std::env::var("NIX_CONFIG").unwrap_or_default();
        command
            .env("LC_ALL", "C")
            .env("NIX_CONFIG", format!("{configured}\n{SETTINGS}{}", self.settings))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn()
    }

    /// The command as a person would type it, long arguments cut.
    fn shown(&self) -> String {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy();
        let mut shown = name.into_owned();
        for argument in &self.arguments {
            let argument = argument.to_string_lossy();
            shown.push(' ');
            if argument.len() > 200 {
                shown.extend(argument.chars().take(120));
                shown.push('…');
            } else {
                shown.push_str(&argument);
            }
        }
        shown.chars().take(1000).collect()
    }
}

/// What holds for every command: flakes, which are still called experimental, and no questions asked.
const SETTINGS: &str = "extra-experimental-features = nix-command flakes
accept-flake-config = false
warn-dirty = false
";

/// The last lines that were pushed.
#[derive(Debug, Default)]
struct LastLines(std::collections::VecDeque<String>);

impl LastLines {
    fn push(&mut self, line: &str) {
        if self.0.len() == SHOWN_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.chars().take(2000).collect());
    }

    fn text(&self) -> String {
        self.0.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

fn for_each_line(from: impl Read, mut hear: impl FnMut(&str)) -> io::Result<()> {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        hear(String::from_utf8_lossy(&line).trim_end());
    }
}
