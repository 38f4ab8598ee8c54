//! A mount as a service, under a stand-in for the service manager: it is told what happens, keeps descriptors,
//! and gives them to the next keeper. Needs root, and Linux 6.9.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use seed_fuse::mount::MountState;
use support::in_private_namespace;
use support::program::{NAME, World, alive, is_mounted, send, state_files, wait_until};

/// What the service manager has of the service.
struct Manager {
    socket: UnixDatagram,
    store: BTreeMap<String, OwnedFd>,
}

impl Manager {
    fn new(world: &World) -> Self {
        let socket = UnixDatagram::bind(world.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, store: BTreeMap::new() }
    }

    /// Receives what is told until a message begins with `until`.
    fn hear(&mut self, until: &str) {
        loop {
            let mut bytes = [0; 512];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            // The next keeper inherits them.
            let message =
                recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty());
            let text = String::from_utf8(bytes[..message.unwrap().bytes].to_vec()).unwrap();
            let descriptor = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            let name =
                text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
            if text.starts_with("FDSTORE=1\n") {
                self.store.insert(name, descriptor.unwrap());
            } else if text.starts_with("FDSTOREREMOVE=1\n") {
                self.store.remove(&name);
            }
            if text.starts_with(until) {
                return;
            }
        }
    }

    /// Starts the service: with what is in the store, as `sd_listen_fds(3)` says.
    fn start(&self, world: &World) -> Child {
        // The shell becomes the service; the numbers above 9 are those of this process.
        let mut script = String::from("export LISTEN_PID=$$; exec \"$@\"");
        for (at, descriptor) in (3..).zip(self.store.values()) {
            script.push_str(&format!(" {at}<&{}", descriptor.as_raw_fd()));
        }
        let names: Vec<_> = self.store.keys().cloned().collect();
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]).arg(&world.program);
        command.args([world.reference().as_str(), "mnt", "--foreground", "--cache", "cache"]);
        command.current_dir(world.root.path()).stdin(Stdio::null());
        command.env("NOTIFY_SOCKET", world.path("notify")).env("FDSTORE", "16");
        if !names.is_empty() {
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        let service = command.spawn().unwrap();
        world.servers.borrow_mut().push(i32::try_from(service.id()).unwrap());
        service
    }
}

fn state() -> MountState {
    let mut states = seed_fuse::mount::mounts(std::path::Path::new("/run/nix-seed")).unwrap();
    assert_eq!(states.len(), 1);
    states.remove(0)
}

#[test]
fn a_mount_outlives_its_service() {
    in_private_namespace(|| {
        let world = World::new();
        let mut manager = Manager::new(&world);
        let mut service = manager.start(&world);
        manager.hear("READY=1");
        manager.hear("FDSTORE=1\nFDNAME=index");
        assert_eq!(manager.store.keys().collect::<Vec<_>>(), ["device", "index", "record"]);
        let before = state();
        assert_eq!(
            before.pid,
            i32::try_from(service.id()).unwrap(),
            "the keeper is what the manager started"
        );
        assert!(before.managed);

        // Reload: another server, told in full.
        send(before.pid, Signal::HUP);
        manager.hear("RELOADING=1\nMONOTONIC_USEC=");
        manager.hear("READY=1");
        let reloaded = state();
        assert!(reloaded.server != before.server && !alive(before.server) && reloaded.pid == before.pid);

        // Both die. Who reads waits, and no command takes the mount away.
        send(before.pid, Signal::KILL);
        service.wait().unwrap();
        wait_until("the server's death", || !alive(reloaded.server));
        assert!(world.run(&["--list"]).status.success());
        assert!(is_mounted(&world.path("mnt")));
        thread::scope(|scope| {
            let file = world.path("mnt").join(NAME).join("data");
            let reader = scope.spawn(move || fs::read(file).unwrap());
            service = manager.start(&world);
            manager.hear("READY=1");
            assert_eq!(reader.join().unwrap(), vec![7; 300_000]);
        });
        let after = state();
        assert_eq!(after.pid, i32::try_from(service.id()).unwrap());
        assert_eq!(world.statuses().len(), 1);

        // Stopped, it leaves nothing, not even with the manager.
        send(after.pid, Signal::TERM);
        assert!(service.wait().unwrap().success());
        manager.hear("FDSTOREREMOVE=1\nFDNAME=index");
        assert!(manager.store.is_empty());
        assert!(!is_mounted(&world.path("mnt")));
        assert_eq!(state_files(), 0);
    });
}

/// A service that was not given back what it had begins anew.
#[test]
fn what_the_manager_lost_is_cleaned_up() {
    in_private_namespace(|| {
        let world = World::new();
        let mut manager = Manager::new(&world);
        let mut service = manager.start(&world);
        manager.hear("READY=1");
        let before = state();
        manager.store.clear();
        send(before.pid, Signal::KILL);
        service.wait().unwrap();
        wait_until("the server's death", || !alive(before.server));
        let mut service = manager.start(&world);
        manager.hear("READY=1");
        assert_eq!(fs::read(world.path("mnt").join(NAME).join("data")).unwrap(), vec![7; 300_000]);
        assert_ne!(state().id, before.id);
        world.unmount("mnt");
        assert!(service.wait().unwrap().success());
        assert_eq!(state_files(), 0);
    });
}
