//! Programs that keep credentials: `docker-credential-NAME get`, the server on stdin, JSON on stdout.

use std::io::{self, Read, Write};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use seed_format::json::{self, JsonError};
use serde::Deserialize;

use super::{Credential, Secret};

/// Longest time that a helper is waited for: it may ask an online service.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer of a helper, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// What a helper prints, and fails, when it has nothing for the server.
const NOT_FOUND: &[u8] = b"credentials not found";
/// The user that marks the secret as a refresh token.
const TOKEN_USER: &str = "<token>";

/// Why a credential helper gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// Its name could be a path or an option.
    #[error("its name may have letters, digits, \".\", \"_\" and \"-\" only")]
    Name,
    /// It cannot be started, or spoken to.
    #[error("it cannot be run; is it installed?")]
    Run(#[source] io::Error),
    /// It did not answer in time.
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
    /// It failed. What it printed is left out, since it may be a secret.
    #[error("it ended with {0}")]
    Failed(ExitStatus),
    /// It answered something else than credentials.
    #[error("its answer is malformed")]
    Answer(#[from] JsonError),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// Asks a helper for the credentials of `server`.
pub(super) fn get(name: &str, server: &str) -> Result<Option<Credential>, HelperError> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(is_plain) {
        return Err(HelperError::Name);
    }
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(HelperError::Run)?;
    let pidfd = pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::empty());
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    // A helper that does not read its input is none; it fails in its own way.
    let _ = stdin.write_all(server.as_bytes());
    drop(stdin);

    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let answer = read_answer(stdout);
        let ended = child.wait();
        let _ = sender.send(answer.and_then(|answer| Ok((answer, ended?))));
    });
    let Ok(result) = receiver.recv_timeout(PATIENCE) else {
        if let Ok(pidfd) = pidfd {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        return Err(HelperError::Slow(PATIENCE));
    };
    let (answer, ended) = result.map_err(HelperError::Run)?;
    if !ended.success() {
        let missing = answer.windows(NOT_FOUND.len()).any(|window| window == NOT_FOUND);
        return if missing { Ok(None) } else { Err(HelperError::Failed(ended)) };
    }
    let Answer { username, secret } = json::from_slice(&answer, MAX_ANSWER)?;
    Ok(Some(match username.as_str() {
        TOKEN_USER => Credential::Identity(secret),
        _ => Credential::Password { user: username, password: secret },
    }))
}

/// Reads the whole answer, but keeps only what a credential may need.
fn read_answer(mut stdout: ChildStdout) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    (&mut stdout).take(MAX_ANSWER as u64 + 1).read_to_end(&mut answer)?;
    io::copy(&mut stdout, &mut io::sink())?;
    Ok(answer)
}
