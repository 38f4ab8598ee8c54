//! The sandbox's first process.
//!
//! It is this very program, started again by the supervisor with a hidden argument. It makes the
//! namespaces and forks: the *outer* process stays outside of the process namespace, holds nothing and
//! only waits; the *inner* one is process 1 inside. Each dies with the one before it, so whichever is
//! killed, all that lies behind it goes, and the mounts with it.

mod binds;
mod devices;
mod fetcher_cache;
mod filter;
mod identity;
mod namespaces;
mod root;
mod serve;
mod syscalls;

use std::io;
use std::os::fd::AsFd;
use std::process::exit;

use rustix::process::{
    PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, set_parent_process_death_signal, setsid, waitpid,
};

use crate::channel::Channel;
use crate::error::Step;
use crate::protocol::{INIT_ARGUMENT, Plan, Reply, Request};
use identity::Identity;

/// Becomes the sandbox's first process if the program was started as one, and never returns then.
///
/// Every program that makes sandboxes calls this first thing in its `main`, before it starts a thread.
pub fn main_if_init() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == INIT_ARGUMENT) {
        exit(outer());
    }
}

/// A step that failed, for the supervisor.
#[derive(Debug)]
struct Failure {
    step: Step,
    errno: i32,
    /// The path or thing that it was about; may be empty.
    about: String,
}

/// Says which step an error belongs to.
trait During<T> {
    fn during(self, step: Step) -> Result<T, Failure>;
    fn during_with(self, step: Step, about: impl ToString) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: Step) -> Result<T, Failure> {
        self.during_with(step, "")
    }

    fn during_with(self, step: Step, about: impl ToString) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            step,
            errno: error.into().raw_os_error().unwrap_or(libc::EIO),
            about: about.to_string(),
        })
    }
}

/// Makes the namespaces, forks process 1, and waits for it. Returns the exit code.
fn outer() -> i32 {
    let Ok(channel) = take_channel() else { return 70 };
    // Said before the first message is read: if the supervisor died before, reading finds its end gone.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return 70;
    }
    let plan = match channel.receive::<Request>() {
        Ok(Some((Request::Start(plan), _))) => plan,
        _ => return 70,
    };
    // Away from the caller's terminal: what is typed there reaches the supervisor alone.
    // Fails only for a process that leads a group already, which a fresh child does not.
    let _ = setsid();

    let prepared = match prepare(&plan) {
        Ok(prepared) => prepared,
        Err(failure) => return report(&channel, failure),
    };
    // Readable once this process ended: process 1 watches it, beside the death signal, which comes only for
    // a death after it was asked for.
    let Ok(own) = pidfd_open(getpid(), PidfdFlags::empty()) else { return 70 };
    let forked = syscalls::fork(|| serve::inner(&channel, &plan, prepared, own.as_fd()));
    match forked {
        Ok(inner) => {
            drop(channel);
            let _ = rustix::io::retry_on_intr(|| waitpid(Some(inner), WaitOptions::empty()));
            0
        }
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            report(&channel, Failure { step: Step::Namespaces, errno, about: "fork".into() })
        }
    }
}

/// The supervisor's channel is standard input, so that no descriptor needs to be named.
fn take_channel() -> io::Result<Channel> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(Channel::from_socket(socket))
}

fn report(channel: &Channel, Failure { step, errno, about }: Failure) -> i32 {
    // If nobody listens there is nobody to tell.
    let _ = channel.send(&Reply::Failed { step, errno, about }, &[]);
    1
}

/// What the outer process made for process 1.
struct Prepared {
    identity: Identity,
    sources: binds::Sources,
}

fn prepare(plan: &Plan) -> Result<Prepared, Failure> {
    let identity = Identity::choose(plan).during(Step::Sources)?;
    if identity.needs_user_namespace() {
        namespaces::enter_user_namespace().during(Step::UserNamespace)?;
    }
    let mapping = identity.workspace_mapping().during(Step::Sources)?;
    namespaces::enter_others(plan.network).during(Step::Namespaces)?;
    let sources = binds::Sources::open(plan, mapping)?;
    Ok(Prepared { identity, sources })
}
