//! What can be written inside, and where it goes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use seed_sandbox::{Sandbox, SandboxError, Scratch, scratch};

use crate::harness::{self, Test, World, approved, shell};
use crate::seed::{self, SEEDED};

pub(crate) const TESTS: &[Test] = &[
    ("writing::the_store_takes_new_paths_and_the_seed_stays", the_store_takes_new_paths_and_the_seed_stays),
    ("writing::commands_share_what_they_wrote", commands_share_what_they_wrote),
    ("writing::the_workspace_is_read_only", the_workspace_is_read_only),
    ("writing::a_writable_workspace_keeps_its_owner", a_writable_workspace_keeps_its_owner),
    ("writing::memory_has_a_limit", memory_has_a_limit),
    ("writing::nothing_is_left", nothing_is_left),
    ("writing::files_inside_can_be_read_from_outside", files_inside_can_be_read_from_outside),
    ("writing::a_scratch_that_is_none_is_named", a_scratch_that_is_none_is_named),
    ("writing::in_a_container_memory_takes_its_place", in_a_container_memory_takes_its_place),
];

fn the_store_takes_new_paths_and_the_seed_stays(world: &World) {
    let mut sandbox = world.start();
    let line = "
        mkdir /nix/store/new && echo new > /nix/store/new/file && cat /nix/store/new/file &&
        mkdir -p /nix/var/nix/gcroots/new && echo x > $HOME/x && echo x > /tmp/x && echo x > /var/tmp/x &&
        echo more > /nix/var/nix/db/db.sqlite && cat /nix/var/nix/db/db.sqlite
    ";
    assert_eq!(shell(&mut sandbox, line).ok(), "new\nmore\n");
    assert_eq!(shell(&mut sandbox, &format!("cat {SEEDED}/file")).ok(), "seeded\n");
    // What the seed holds is nobody's to change, and cannot be unpacked over either.
    let ran = shell(&mut sandbox, &format!("echo x > {SEEDED}/file"));
    assert!(ran.stderr.contains("Permission denied"), "{ran:?}");
    drop(sandbox);

    let mut again = world.start();
    assert!(shell(&mut again, "cat /nix/store/new/file").stderr.contains("No such file"));
    assert!(shell(&mut again, "cat /nix/var/nix/db/db.sqlite | dd bs=6 count=1").ok().starts_with("SQLite"));
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
    shell(&mut sandbox, "cd /nix/store && mkdir -m 0 shut && chmod 555 closed/inner closed").ok();
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
    shell(&mut sandbox, "ln -s result /nix/store/link").ok();
    sandbox.open("/nix/store/link".as_ref()).unwrap_err();
}

fn a_scratch_that_is_none_is_named(world: &World) {
    let mut spec = world.spec();
    spec.scratch = Scratch::Directory(world.workspace.join("source"));
    let error = Sandbox::start(&approved(), &spec).unwrap_err();
    assert!(matches!(error, SandboxError::Scratch { .. }), "{error:?}");
}

/// An overlay's upper layer cannot lie on another overlay, as the file systems of containers are. The
/// overlay is made by root of a user namespace, who starts the sandbox too: so that is tried as well.
fn in_a_container_memory_takes_its_place(world: &World) {
    let place = world.path().join("container");
    for name in ["lower", "changes", "merged"] {
        fs::create_dir_all(place.join(name)).unwrap();
    }
    let line = "
        cd \"$1\"; shift
        mount -t tmpfs changes changes && mkdir changes/upper changes/work
        mount -t overlay -o lowerdir=lower,upperdir=changes/upper,workdir=changes/work,userxattr merged merged
        exec \"$@\"
    ";
    let (layout, digest) = (world.seed().layout(), world.seed().digest.to_string());
    let ran = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc", line, "sh"])
        .args([place.as_os_str(), harness::program().as_os_str(), CONTAINER.as_ref()])
        .args([layout.as_os_str(), digest.as_ref(), place.join("merged").as_os_str()])
        .output()
        .unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{said} {}", String::from_utf8_lossy(&ran.stderr));
    assert!(said.starts_with("written\n[ScratchInMemory { limit: "), "{said}");
}

pub(crate) const CONTAINER: &str = "container";

/// Makes a sandbox whose scratch directory shall lie in a directory that cannot hold one.
pub(crate) fn in_container(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let mut next = || arguments.next().unwrap();
    let (layout, digest, scratch) = (next(), next().parse().unwrap(), next());
    let spec = harness::bare_spec(seed::open(layout.as_ref(), &digest), scratch.into());
    let mut sandbox = Sandbox::start(&harness::approve(digest), &spec).unwrap();
    print!("{}", shell(&mut sandbox, "echo written > /nix/store/file; cat /nix/store/file").ok());
    println!("{:?}", sandbox.notes());
    ExitCode::SUCCESS
}
