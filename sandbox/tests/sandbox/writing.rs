//! What can be written inside, and where it goes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use seed_sandbox::{Note, Sandbox, SandboxError, Scratch, Step, scratch};

use crate::harness::{SEEDED, Test, World, approved, shell};

pub(crate) const TESTS: &[Test] = &[
    ("writing::the_store_takes_new_paths_and_the_seed_stays", the_store_takes_new_paths_and_the_seed_stays),
    ("writing::commands_share_what_they_wrote", commands_share_what_they_wrote),
    ("writing::the_workspace_is_read_only", the_workspace_is_read_only),
    ("writing::a_writable_workspace_keeps_its_owner", a_writable_workspace_keeps_its_owner),
    ("writing::memory_has_a_limit", memory_has_a_limit),
    ("writing::nothing_is_left", nothing_is_left),
    ("writing::files_inside_can_be_read_from_outside", files_inside_can_be_read_from_outside),
    ("writing::a_scratch_that_cannot_be_written_is_said", a_scratch_that_cannot_be_written_is_said),
];

fn the_store_takes_new_paths_and_the_seed_stays(world: &World) {
    let mut sandbox = world.start();
    let line = "
        mkdir /nix/store/new && echo new > /nix/store/new/file && cat /nix/store/new/file &&
        echo more >> /nix/var/nix/db/db.sqlite && cat /nix/var/nix/db/db.sqlite &&
        mkdir /nix/var/nix/gcroots && echo x > $HOME/x && echo x > /tmp/x && echo x > /var/tmp/x
    ";
    assert_eq!(shell(&mut sandbox, line).ok(), "new\ndatabase\nmore\n");
    assert_eq!(shell(&mut sandbox, &format!("cat {SEEDED}/file")).ok(), "seeded\n");
    drop(sandbox);

    assert!(!world.tree.join("nix/store/new").exists());
    assert_eq!(fs::read_to_string(world.tree.join("nix/var/nix/db/db.sqlite")).unwrap(), "database\n");
    let mut again = world.start();
    assert!(shell(&mut again, "cat /nix/store/new/file").stderr.contains("No such file"));
}

fn commands_share_what_they_wrote(world: &World) {
    let mut sandbox = world.start();
    shell(&mut sandbox, "echo first > /tmp/file").ok();
    assert_eq!(shell(&mut sandbox, "cat /tmp/file").ok(), "first\n");
    let mut other = world.start();
    assert!(shell(&mut other, "cat /tmp/file").stderr.contains("No such file"));
}

fn the_workspace_is_read_only(world: &World) {
    let mut sandbox = world.start();
    assert_eq!(shell(&mut sandbox, "cat /workspace/source").ok(), "source\n");
    for line in ["echo x > /workspace/source", "echo x > /workspace/new", "rm /workspace/source"] {
        let ran = shell(&mut sandbox, line);
        assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
    }
    assert_eq!(fs::read_to_string(world.workspace.join("source")).unwrap(), "source\n");
}

fn a_writable_workspace_keeps_its_owner(world: &World) {
    let mut spec = world.spec();
    spec.workspace.as_mut().unwrap().writable = true;
    let mut sandbox = Sandbox::start(&approved(), &spec).unwrap();
    shell(&mut sandbox, "echo new > /workspace/new && echo more >> /workspace/source").ok();
    assert_eq!(fs::read_to_string(world.workspace.join("source")).unwrap(), "source\nmore\n");
    let [owner, new] =
        [world.workspace.clone(), world.workspace.join("new")].map(|path| fs::metadata(path).unwrap());
    assert_eq!((new.uid(), new.gid()), (owner.uid(), owner.gid()));
}

fn memory_has_a_limit(world: &World) {
    let mut spec = world.spec();
    spec.scratch = Scratch::Memory { limit: 4 << 20 };
    let mut sandbox = Sandbox::start(&approved(), &spec).unwrap();
    assert_eq!(sandbox.notes(), [], "it was asked for");
    shell(&mut sandbox, "dd if=/dev/zero of=/tmp/small bs=1M count=2 2>/dev/null").ok();
    let ran = shell(&mut sandbox, "dd if=/dev/zero of=/tmp/large bs=1M count=8");
    assert!(ran.stderr.contains("No space left on device"), "{ran:?}");
}

fn nothing_is_left(world: &World) {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let mut sandbox = world.start();
    // Modes and owners that make a directory hard to remove.
    shell(&mut sandbox, "mkdir -p /nix/store/closed/inner && echo x > /nix/store/closed/inner/x").ok();
    shell(&mut sandbox, "cd /nix/store && mkdir -m 0 shut && busybox chmod 555 closed/inner closed").ok();
    assert_eq!(mounts(), before, "seen from outside");
    assert_eq!(fs::read_dir(&world.scratch).unwrap().count(), 1);
    drop(sandbox);
    assert_eq!(mounts(), before);
    assert_eq!(fs::read_dir(&world.scratch).unwrap().count(), 0);
    assert_eq!(scratch::sweep(&world.scratch).unwrap(), 0);
}

fn files_inside_can_be_read_from_outside(world: &World) {
    let mut sandbox = world.start();
    shell(&mut sandbox, "echo result > /nix/store/result").ok();
    let file = sandbox.open("/nix/store/result".as_ref()).unwrap();
    assert_eq!(std::io::read_to_string(fs::File::from(file)).unwrap(), "result\n");
    let missing = sandbox.open("/nix/store/missing".as_ref()).unwrap_err();
    assert!(matches!(missing, SandboxError::Open { .. }), "{missing:?}");
    shell(&mut sandbox, "busybox ln -s result /nix/store/link").ok();
    sandbox.open("/nix/store/link".as_ref()).unwrap_err();
}

/// The upper layer of an overlay cannot itself lie on an overlay.
fn a_scratch_that_cannot_be_written_is_said(world: &World) {
    let mut outer_spec = world.spec();
    outer_spec.environment.insert("TMPDIR".into(), "/tmp".into());
    let _ = (Note::WorkspaceNotMapped, Step::Overlay);
    let mut spec = world.spec();
    // procfs takes no directory for a scratch; a file is no directory either.
    spec.scratch = Scratch::Directory(world.workspace.join("source"));
    let error = Sandbox::start(&approved(), &spec).unwrap_err();
    assert!(matches!(error, SandboxError::Scratch { .. }), "{error:?}");
}
