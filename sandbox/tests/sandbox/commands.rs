//! How commands start, speak and end.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use seed_sandbox::{Command, Exit, SandboxError, Step};

use crate::harness::{Test, World, approve, approved, execute, pipes, shell};

pub(crate) const TESTS: &[Test] = &[
    ("commands::ends_are_reported", ends_are_reported),
    ("commands::unknown_programs_are_named", unknown_programs_are_named),
    ("commands::the_convenience_runs_one", the_convenience_runs_one),
    ("commands::input_and_output_pass", input_and_output_pass),
    ("commands::signals_arrive", signals_arrive),
    ("commands::nothing_outlives_its_command", nothing_outlives_its_command),
    ("commands::the_environment_is_what_was_given", the_environment_is_what_was_given),
    ("commands::too_much_output_is_an_error", too_much_output_is_an_error),
    ("commands::missing_sources_are_named", missing_sources_are_named),
    ("commands::another_seed_is_not_approved", another_seed_is_not_approved),
];

fn ends_are_reported(world: &World) {
    let mut sandbox = world.start();
    for (line, exit, code) in [
        ("true", Exit::Code(0), 0),
        ("exit 7", Exit::Code(7), 7),
        ("kill -TERM $$", Exit::Signal(15), 143),
        ("kill -KILL $$", Exit::Signal(9), 137),
    ] {
        let ran = shell(&mut sandbox, line);
        assert_eq!((ran.exit, ran.exit.code()), (exit, code), "{line}");
    }
}

fn unknown_programs_are_named(world: &World) {
    let mut sandbox = world.start();
    let error = sandbox.execute(Command::new(["no-such-program"])).unwrap_err();
    let SandboxError::Exec { program, source } = error else { panic!("{error:?}") };
    assert_eq!((program.as_str(), source.kind()), ("no-such-program", std::io::ErrorKind::NotFound));
    assert_eq!(shell(&mut sandbox, "echo still here").ok(), "still here\n");
}

fn the_convenience_runs_one(world: &World) {
    let outcome =
        seed_sandbox::run(&approved(), &world.spec(), Command::new(["sh", "-c", "exit 3"])).unwrap();
    assert_eq!((outcome.exit, outcome.notes.as_slice()), (Exit::Code(3), [].as_slice()));
    let names: Vec<_> = outcome.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["sandbox", "command"]);
    assert!(outcome.phases.iter().all(|phase| phase.seconds > 0.0), "{outcome:?}");
}

fn input_and_output_pass(world: &World) {
    let mut sandbox = world.start();
    let (mut to_command, mut from_command, stdio) = pipes();
    let sent: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            to_command.write_all(&sent).unwrap();
            drop(to_command);
        });
        let reading = scope.spawn(|| {
            let mut received = Vec::new();
            from_command.read_to_end(&mut received).unwrap();
            received
        });
        assert_eq!(sandbox.execute(Command::new(["cat"]).stdio(stdio)).unwrap(), Exit::Code(0));
        writing.join().unwrap();
        assert!(reading.join().unwrap() == sent);
    });
}

fn signals_arrive(world: &World) {
    let mut sandbox = world.start();
    let controller = sandbox.controller();
    let (to_command, from_command, stdio) = pipes();
    // The shell waits for a line that never comes, and its child for a second that never does.
    let line = "trap 'echo caught; exit 42' TERM; echo ready; read line; echo not reached";
    std::thread::scope(|scope| {
        let watching = scope.spawn(move || {
            let mut lines = BufReader::new(from_command).lines().map(Result::unwrap);
            assert_eq!(lines.next().as_deref(), Some("ready"));
            controller.signal(15).unwrap();
            lines.collect::<Vec<_>>()
        });
        let exit = sandbox.execute(Command::new(["sh", "-c", line]).stdio(stdio)).unwrap();
        assert_eq!(exit, Exit::Code(42));
        assert_eq!(watching.join().unwrap(), ["caught"]);
    });
    drop(to_command);
}

fn nothing_outlives_its_command(world: &World) {
    let mut sandbox = world.start();
    // The first leaves a process that would hold the pipe open for an hour, in a session of its own.
    let started = std::time::Instant::now();
    assert_eq!(shell(&mut sandbox, "(trap '' HUP TERM; sleep 3600) & echo left").ok(), "left\n");
    let listed = shell(&mut sandbox, "for p in /proc/[0-9]*; do cat $p/comm; done").ok();
    assert!(!listed.contains("sleep"), "{listed}");
    assert!(started.elapsed().as_secs() < 60);
}

fn the_environment_is_what_was_given(world: &World) {
    let mut sandbox = world.start();
    let mut command = Command::new(["env"]);
    command.environment.insert("EXTRA".into(), "one two".into());
    let mut listed: Vec<_> = execute(&mut sandbox, command).ok().lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(
        listed,
        [
            "EXTRA=one two",
            "HOME=/home/seed",
            "LOGNAME=seed",
            "PATH=/nix/store/00000000000000000000000000000000-shell/bin",
            "USER=seed"
        ]
    );
}

fn too_much_output_is_an_error(world: &World) {
    let mut sandbox = world.start();
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let command = Command::new(["sh", "-c", "while echo 0123456789; do :; done"]);
    let error = sandbox.capture(command, null.into(), 1000).unwrap_err();
    assert!(matches!(error, SandboxError::Channel(_)), "{error:?}");
}

fn missing_sources_are_named(world: &World) {
    let mut spec = world.spec();
    spec.workspace.as_mut().unwrap().directory = "/no/such/workspace".into();
    let error = seed_sandbox::Sandbox::start(&approved(), &spec).unwrap_err();
    let SandboxError::Path { path, .. } = &error else { panic!("{error:?}") };
    assert_eq!(path, Path::new("/no/such/workspace"));
    assert_eq!(Step::Overlay.to_string(), "no writable layer can be put over the seed");
}

fn another_seed_is_not_approved(world: &World) {
    let other = seed_format::Digest::of(b"another seed");
    let error = seed_sandbox::Sandbox::start(&approve(other), &world.spec()).unwrap_err();
    let SandboxError::NotApproved { approved, opened } = error else { panic!("{error:?}") };
    assert_eq!((approved, opened), (other, world.seed().digest));
    assert!(!world.scratch.exists(), "nothing was begun");
}
