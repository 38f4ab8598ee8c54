//! Sandboxes from the inside and from the outside, on the real kernel, as root and as an ordinary user.
//!
//! One program in several roles, by its first argument: the sandbox's first process, the probe that looks
//! around inside, a supervisor that is there to be killed, and the tests.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program of tests, which clippy takes for an ordinary one

mod commands;
mod demo;
mod harness;
mod isolation;
mod killed;
mod probe;
mod seed;
mod terminal;
mod writing;

use std::process::ExitCode;

use harness::Test;

fn main() -> ExitCode {
    seed_sandbox::main_if_init();
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(probe::ROLE) => probe::main(arguments),
        Some(demo::ROLE) => demo::pack_demo(arguments),
        Some(killed::ROLE) => killed::supervise(arguments),
        Some(terminal::ROLE) => terminal::interactive(arguments),
        Some(writing::CONTAINER) => writing::in_container(arguments),
        _ => harness::run(&tests()),
    }
}

fn tests() -> Vec<Test> {
    [commands::TESTS, isolation::TESTS, writing::TESTS, terminal::TESTS, killed::TESTS, demo::TESTS].concat()
}
