//! A receiver of traces and metrics, on a free port, gone with its owner: the collector's own decoder tells what it got.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

pub(crate) struct Collector {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    lines: Receiver<String>,
}

impl Collector {
    /// `repository` is where this project lies.
    pub(crate) fn start(repository: &Path) -> Self {
        let made =
            Command::new(repository.join("tests/tools/go-tools")).arg("otlp-receiver").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let program = String::from_utf8(made.stdout).unwrap();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program.trim(), "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let address = lines.recv_timeout(Duration::from_secs(30)).expect("it says where it listens");
        Self { child, endpoint: format!("http://{address}"), lines }
    }

    /// The next metrics that come, as they were sent at once.
    pub(crate) fn metrics(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(30)).expect("metrics come");
        serde_json::from_str(&line).unwrap()
    }

    /// The spans that have come, `count` of them: the command's first.
    pub(crate) fn spans(&self, count: usize) -> Vec<Value> {
        let line = || self.lines.recv_timeout(Duration::from_secs(30)).expect("a span comes");
        (0..count).map(|_| serde_json::from_str(&line()).unwrap()).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
