//! A shell at a terminal.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use seed_sandbox::{Command, Stdio};

use crate::harness::{self, Test, World};
use crate::seed;

pub(crate) const ROLE: &str = "interactive";

pub(crate) const TESTS: &[Test] = &[
    ("terminal::a_shell_has_one_of_its_own", a_shell_has_one_of_its_own),
    ("terminal::its_size_follows", its_size_follows),
];

/// Runs a line of shell in a sandbox, at the terminal that is standard input and output.
pub(crate) fn interactive(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let mut next = || arguments.next().unwrap();
    let (layout, digest, scratch) = (PathBuf::from(next()), next().parse().unwrap(), PathBuf::from(next()));
    let spec = harness::bare_spec(seed::open(&layout, &digest), scratch);
    let stdio = Stdio::inherit().unwrap();
    assert!(matches!(stdio, Stdio::Terminal));
    let command = Command::new(["sh".into(), "-c".into(), next()]).stdio(stdio);
    let outcome = seed_sandbox::run(&harness::approve(digest), &spec, command).unwrap();
    ExitCode::from(outcome.exit.code())
}

/// A process at a terminal of 33 lines of 77 columns, and the end where a person would sit.
struct Seat {
    process: std::process::Child,
    far: File,
    shown: String,
}

impl Seat {
    fn new(world: &World, line: &str) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let far = openpt(flags).unwrap();
        unlockpt(&far).unwrap();
        let near = File::from(ioctl_tiocgptpeer(&far, flags).unwrap());
        let far = File::from(far);
        resize(&far, 33, 77);
        let mut command = std::process::Command::new(harness::program());
        let (layout, digest) = (world.seed().layout(), world.seed().digest.to_string());
        command.args([
            ROLE.as_ref(),
            layout.as_os_str(),
            digest.as_ref(),
            world.scratch.as_os_str(),
            line.as_ref(),
        ]);
        command.stdin(near.try_clone().unwrap()).stdout(near.try_clone().unwrap()).stderr(near);
        // SAFETY: two system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let process = command.spawn().unwrap();
        Self { process, far, shown: String::new() }
    }

    /// Reads until `text` was shown.
    fn expect(&mut self, text: &str) {
        let mut buffer = [0; 1024];
        while !self.shown.contains(text) {
            let count = self.far.read(&mut buffer).unwrap_or(0);
            assert_ne!(count, 0, "{text:?} was not shown: {:?}", self.shown);
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    fn code(mut self) -> Option<i32> {
        // The process's last users of the terminal are gone when reading fails.
        let mut rest = Vec::new();
        let _ = self.far.read_to_end(&mut rest);
        self.process.wait().unwrap().code()
    }
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn a_shell_has_one_of_its_own(world: &World) {
    let line = "tty; stty size; read -p 'who? ' x; echo hello $x; read y; exit 5";
    let mut seat = Seat::new(world, line);
    seat.expect("/dev/pts/0");
    seat.expect("33 77");
    seat.expect("who? ");
    let raw = tcgetattr(&seat.far).unwrap();
    assert!(!raw.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
    seat.far.write_all(b"world\r").unwrap();
    seat.expect("hello world");
    seat.far.write_all(b"\r").unwrap();
    assert_eq!(seat.code(), Some(5));

    // What interrupts is a key of the sandbox's terminal, and reaches its command alone.
    let mut seat =
        Seat::new(world, "trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.1; done");
    seat.expect("ready");
    seat.far.write_all(b"\x03").unwrap();
    seat.expect("interrupted");
    assert_eq!(seat.code(), Some(6));
}

fn its_size_follows(world: &World) {
    let line = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut seat = Seat::new(world, line);
    seat.expect("ready");
    resize(&seat.far, 40, 90);
    seat.expect("40 90");
    assert_eq!(seat.code(), Some(0));
}
