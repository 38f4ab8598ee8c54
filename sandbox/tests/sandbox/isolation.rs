//! What cannot be seen or reached from inside.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};

use seed_sandbox::{Bind, Command, Lower, Sandbox};

use crate::harness::{Test, World, approved, execute, probe, shell};
use crate::seed::{SEARCH_PATH, SEEDED};

pub(crate) const TESTS: &[Test] = &[
    ("isolation::no_packet_leaves", no_packet_leaves),
    ("isolation::no_socket_of_the_host_is_reached", no_socket_of_the_host_is_reached),
    ("isolation::no_file_of_the_host_is_seen", no_file_of_the_host_is_seen),
    ("isolation::no_process_of_the_host_is_seen", no_process_of_the_host_is_seen),
    ("isolation::no_privilege_is_left", no_privilege_is_left),
    ("isolation::the_filter_refuses", the_filter_refuses),
    ("isolation::the_kernels_settings_are_out_of_reach", the_kernels_settings_are_out_of_reach),
    ("isolation::nix_can_make_its_own_sandbox", nix_can_make_its_own_sandbox),
    ("isolation::links_in_a_seed_lead_nowhere", links_in_a_seed_lead_nowhere),
    ("isolation::devices_are_six", devices_are_six),
];

fn no_packet_leaves(world: &World) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the host itself reaches the listener");

    let mut sandbox = world.start();
    let mut ask = |arguments: [&str; 2]| probe(&mut sandbox, arguments).ok();
    assert_eq!(ask(["tcp", &format!("127.0.0.1:{port}")]), "Connection refused (os error 111)\n");
    assert_eq!(ask(["tcp", "192.0.2.1:80"]), "Network is unreachable (os error 101)\n");
    assert_eq!(ask(["tcp", "[2001:db8::1]:80"]), "Network is unreachable (os error 101)\n");
    assert_eq!(ask(["udp", "192.0.2.1:53"]), "Network is unreachable (os error 101)\n");
    assert_ne!(ask(["name", "example.org:80"]), "ok\n");
    assert_eq!(ask(["name", "localhost:80"]), "ok\n");
    assert_eq!(ask(["loopback", ""]), "ok\n");
    let devices = shell(&mut sandbox, "cat /proc/net/dev").ok();
    let devices: Vec<_> = devices.lines().skip(2).filter_map(|line| line.split(':').next()).collect();
    assert_eq!(devices.iter().map(|name| name.trim()).collect::<Vec<_>>(), ["lo"]);
}

fn no_socket_of_the_host_is_reached(world: &World) {
    let path = world.hidden.join("socket");
    let _by_path = UnixListener::bind(&path).unwrap();
    let name = format!("seed-sandbox-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _by_name = UnixListener::bind_addr(&address).unwrap();
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();

    let mut sandbox = world.start();
    let by_path = probe(&mut sandbox, ["path-socket", path.to_str().unwrap()]).ok();
    assert_eq!(by_path, "No such file or directory (os error 2)\n");
    let by_name = probe(&mut sandbox, ["abstract-socket", &name]).ok();
    assert_eq!(by_name, "Connection refused (os error 111)\n");

    probe(&mut sandbox, ["udp", &datagrams.local_addr().unwrap().to_string()]).ok();
    datagrams.set_nonblocking(true).unwrap();
    let received = datagrams.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(received.kind(), std::io::ErrorKind::WouldBlock);
}

fn no_file_of_the_host_is_seen(world: &World) {
    let mut sandbox = world.start();
    let root = shell(&mut sandbox, "ls -a /").ok();
    let expected = [
        ".",
        "..",
        "bin",
        "dev",
        "etc",
        "home",
        "nix",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "usr",
        "var",
        "workspace",
    ];
    assert_eq!(root.split_ascii_whitespace().collect::<Vec<_>>(), expected);
    assert_eq!(shell(&mut sandbox, "ls -a /sys /run").ok(), "/run:\n.\n..\n\n/sys:\n.\n..\n");
    for path in [world.hidden.join("secret"), "/etc/shadow".into(), "/usr/bin/busybox".into()] {
        let ran = shell(&mut sandbox, &format!("cat {}", path.display()));
        assert!(ran.stderr.contains("No such file or directory"), "{ran:?}");
    }
    assert_eq!(shell(&mut sandbox, "cat /etc/nsswitch.conf").ok().lines().last(), Some("hosts: files dns"));
    // What is mounted is mounted for the sandbox: no source names a place of the host.
    let mounts = shell(&mut sandbox, "cat /proc/self/mountinfo").ok();
    for line in mounts.lines() {
        let target = line.split(' ').nth(4).unwrap();
        assert!(
            target == "/" || ["/proc", "/dev", "/workspace"].iter().any(|place| target.starts_with(place)),
            "{line}"
        );
    }

    let mut spec = world.spec();
    let bind = |writable| Bind { source: world.hidden.clone(), target: "/named/place".into(), writable };
    spec.binds = vec![bind(false)];
    let mut sandbox = Sandbox::start(&approved(), &spec).unwrap();
    assert_eq!(shell(&mut sandbox, "cat /named/place/secret").ok(), "secret\n");
    assert!(shell(&mut sandbox, "echo x > /named/place/secret").stderr.contains("Read-only file system"));
}

fn no_process_of_the_host_is_seen(world: &World) {
    let mut sandbox = world.start();
    let processes = shell(&mut sandbox, "cd /proc; echo [0-9]*; cat 1/comm").ok();
    let (numbers, name) = processes.split_once('\n').unwrap();
    assert!(numbers.split(' ').count() <= 2, "{numbers}");
    assert_eq!(name, "exe\n");
    // Process 1 has nothing to show: neither its files, nor its memory, nor its environment.
    for file in ["environ", "fd/0", "mem", "root/etc", "cwd"] {
        let ran = shell(&mut sandbox, &format!("cat /proc/1/{file}"));
        assert!(ran.stderr.contains("Permission denied"), "{file}: {ran:?}");
    }
}

fn no_privilege_is_left(world: &World) {
    let mut sandbox = world.start();
    for process in ["1", "self"] {
        let status = shell(&mut sandbox, &format!("cat /proc/{process}/status")).ok();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2");
        assert_eq!(field("Uid"), "1000 1000 1000 1000");
        assert_eq!(field("Gid"), "1000 1000 1000 1000");
    }
    // One user, who is not root outside either.
    let map = shell(&mut sandbox, "cat /proc/self/uid_map").ok();
    assert_eq!(map.split_ascii_whitespace().collect::<Vec<_>>()[2], "1", "{map}");
    assert_eq!(shell(&mut sandbox, "ulimit -c").ok(), "0\n");
}

fn the_filter_refuses(world: &World) {
    let mut sandbox = world.start();
    let said = probe(&mut sandbox, ["calls"]).ok();
    let family = "Address family not supported by protocol (os error 97)";
    let missing = "Function not implemented (os error 38)";
    let forbidden = "Operation not permitted (os error 1)";
    let expected = [
        ("socket-vsock", family),
        ("socket-alg", family),
        ("socket-packet", family),
        ("socket-netlink-audit", "Protocol not supported (os error 93)"),
        ("socket-netlink-route", "ok"),
        ("socket-unix", "ok"),
        ("io_uring_setup", missing),
        ("bpf", forbidden),
        ("perf_event_open", forbidden),
        ("userfaultfd", forbidden),
        ("keyctl", forbidden),
        ("add_key", forbidden),
        ("open_by_handle_at", forbidden),
        ("fsopen", missing),
        ("open_tree", missing),
        ("mount_setattr", missing),
        ("fanotify_init", forbidden),
        ("init_module", forbidden),
        ("reboot", forbidden),
        ("swapon", forbidden),
        ("syslog", forbidden),
        ("ioctl-tiocsti", forbidden),
        ("ioctl-other", "Bad file descriptor (os error 9)"),
        ("ptrace-other", forbidden),
        ("mount-without-namespace", "Bad address (os error 14)"),
    ];
    let lines: Vec<_> = said.lines().collect();
    let expected: Vec<_> = expected.iter().map(|(name, answer)| format!("{name} {answer}")).collect();
    assert_eq!(lines, expected);
}

fn the_kernels_settings_are_out_of_reach(world: &World) {
    let mut sandbox = world.start();
    for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches"] {
        let ran = shell(&mut sandbox, &format!("echo 0 > {path}"));
        assert!(ran.stderr.contains("Permission denied"), "{path}: {ran:?}");
    }
}

fn nix_can_make_its_own_sandbox(world: &World) {
    let mut sandbox = world.start();
    assert_eq!(probe(&mut sandbox, ["nest"]).ok(), "ok\n");
}

fn links_in_a_seed_lead_nowhere(world: &World) {
    let outside = &world.hidden;
    let tree = world.path().join("tree");
    world.seed().unpack(&tree);
    for name in ["etc", "proc", "dev", "tmp", "home", "workspace", "var"] {
        symlink(outside, tree.join(name)).unwrap();
    }
    let mut spec = world.spec();
    spec.lower = Lower::Directory(tree);
    let mut sandbox = Sandbox::start(&approved(), &spec).unwrap();
    let line = format!("cat /workspace/source; echo x > /tmp/x; cat {SEEDED}/file");
    assert_eq!(
        execute(&mut sandbox, Command::new([SEARCH_PATH, "/sh"].concat().split(' ').chain(["-c", &line])))
            .ok(),
        "source\nseeded\n"
    );
    let names: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret\n");
}

fn devices_are_six(world: &World) {
    let mut sandbox = world.start();
    let listed = shell(&mut sandbox, "ls /dev").ok();
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    shell(&mut sandbox, "echo x > /dev/null && dd if=/dev/zero of=/dev/shm/x bs=10 count=1 2>/dev/null").ok();
}
