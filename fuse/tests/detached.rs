//! `seed-mount` as its users run it: processes that detach, are killed, and are cleaned up after. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[path = "../../tests/collector/mod.rs"]
mod collector;
mod support;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use collector::Collector;
use rustix::process::Signal;
use seed_fuse::mount::Ready;
use serde_json::Value;
use support::in_private_namespace;
use support::program::{NAME, World, alive, is_mounted, send, state_files, wait_until};

#[test]
fn mount_use_unmount() {
    in_private_namespace(|| {
        let world = World::new();
        let ready = world.mount("mnt", &[]);
        assert_eq!(ready.state.digest, world.seed.digest);
        let tool = world.path("mnt").join(NAME).join("bin/tool");
        assert_eq!(Command::new(tool).output().unwrap().stdout, b"works\n");

        let statuses = world.statuses();
        assert_eq!(statuses.len(), 1);
        assert_eq!(statuses[0].state, ready.state);
        assert!(statuses[0].stats.fuse_lookups > 0 && statuses[0].stats.bytes_fetched > 0);
        assert!(statuses[0].resident > 1 << 20);

        // It holds nothing of who started it.
        for (fd, target) in [(0, "/dev/null"), (1, "/dev/null")] {
            let link = fs::read_link(format!("/proc/{}/fd/{fd}", ready.state.pid)).unwrap();
            assert_eq!(link, Path::new(target));
        }
        assert_eq!(fs::read_link(format!("/proc/{}/cwd", ready.state.pid)).unwrap(), Path::new("/"));

        world.unmount("mnt");
        assert!(!alive(ready.state.pid) && !is_mounted(&world.path("mnt")));
        assert_eq!(state_files(), 0);
        let again = world.run(&["--unmount", "mnt"]);
        assert_eq!(again.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&again.stderr).contains("is not a mounted seed"));
    });
}

#[test]
fn a_mount_that_waited_for_everything_needs_its_source_no_more() {
    in_private_namespace(|| {
        let world = World::new();
        world.mount("mnt", &["--wait", "full", "--keep-free", "0"]);
        fs::rename(world.path("layout"), world.path("gone")).unwrap();
        assert_eq!(fs::read(world.path("mnt").join(NAME).join("data")).unwrap(), vec![7; 300_000]);
        world.unmount("mnt");
        fs::rename(world.path("gone"), world.path("layout")).unwrap();

        let reference = world.reference();
        let small = ["--cache", "other", "--cache-limit", "1", "--wait", "full"];
        let output = world.run(&[&[reference.as_str(), "mnt"], &small[..]].concat());
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("chunks of the seed are not in the cache"), "{said}");
        assert!(!is_mounted(&world.path("mnt")));
    });
}

#[test]
fn the_same_is_mounted_once_and_the_topmost_goes_first() {
    in_private_namespace(|| {
        let world = World::new();
        let first = world.mount("mnt", &[]);
        assert_eq!(world.mount("mnt", &[]).state, first.state);
        let whole = world.mount("mnt", &["--root"]);
        assert_ne!(whole.state, first.state);
        assert!(world.path("mnt/nix/store").exists());
        world.unmount("mnt");
        assert!(!alive(whole.state.pid) && alive(first.state.pid));
        assert!(world.path("mnt").join(NAME).exists());
        world.unmount("mnt");
        assert!(!alive(first.state.pid) && !is_mounted(&world.path("mnt")));
        assert_eq!(state_files(), 0);
    });
}

#[test]
fn the_mode_is_as_asked_for_and_told() {
    in_private_namespace(|| {
        let world = World::new();
        for (mode, shown, kind, reason) in [
            ("auto", "kernel", "erofs", "from files"),
            ("kernel", "kernel", "erofs", "from files"),
            ("kernel-loop", "kernel", "erofs", "from loop devices"),
            ("fuse", "fuse", "fuse.seed-mount", "it was asked for"),
        ] {
            let ready = world.mount("mnt", &["--mode", mode]);
            let told = &ready.state.shown;
            assert!(told.mode == shown && told.reason.contains(reason), "{mode}: {told:?}");
            assert_eq!(world.statuses()[0].state, ready.state);
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let line = table.lines().find(|line| line.contains(&ready.state.id)).unwrap();
            assert!(line.contains(&format!(" - {kind} {} ro", ready.state.id)), "{mode}: {line}");
            assert_eq!(fs::read(world.path("mnt").join(NAME).join("data")).unwrap(), vec![7; 300_000]);
            // Nothing but what was asked for shows anywhere.
            let ours = table.lines().filter(|line| line.contains(&ready.state.id)).count();
            assert_eq!(ours, 1, "{table}");
            world.unmount("mnt");
            assert!(!alive(ready.state.pid) && state_files() == 0, "{mode}");
        }
        let refused = world.run(&[&world.reference(), "mnt", "--mode", "nfs"]);
        assert_eq!(refused.status.code(), Some(2));
    });
}

#[test]
fn where_the_kernel_may_not_fuse_does() {
    in_private_namespace(|| {
        let world = World::new();
        // Root of a user namespace, which the kernel lets mount FUSE and not EROFS.
        let reference = world.reference();
        let run = |mode: &str| {
            let script = format!(
                "mount -t tmpfs none /run && {} {reference} mnt --no-cache --json --mode {mode} && {0} --unmount mnt",
                env!("CARGO_BIN_EXE_seed-mount"),
            );
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]);
            command.args(["sh", "-c", &script]).current_dir(world.root.path()).output().unwrap()
        };
        let output = run("auto");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ready: Ready = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(ready.state.shown.mode, "fuse");
        assert!(ready.state.shown.reason.contains("only root of the machine"), "{ready:?}");
        let output = run("kernel");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("only root of the machine") && said.contains("--mode auto"), "{said}");
    });
}

#[test]
fn a_mount_in_use_stays_unless_it_is_forced() {
    in_private_namespace(|| {
        let world = World::new();
        let ready = world.mount("mnt", &[]);
        let file = fs::File::open(world.path("mnt").join(NAME).join("data")).unwrap();
        let refused = world.run(&["--unmount", "mnt"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(is_mounted(&world.path("mnt")) && alive(ready.state.pid));

        assert!(world.run(&["--unmount", "mnt", "--lazy"]).status.success());
        assert!(!is_mounted(&world.path("mnt")));
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut { &file }, &mut bytes).unwrap();
        assert_eq!(bytes, vec![7; 300_000], "who has it open goes on reading");
        drop(file);
        wait_until("the end of the server", || !alive(ready.state.pid) && state_files() == 0);
    });
}

#[test]
fn the_next_command_cleans_up_after_a_killed_keeper() {
    in_private_namespace(|| {
        let world = World::new();
        fs::create_dir(world.path("other")).unwrap();
        let killed = world.mount("mnt", &[]);
        let living = world.mount("other", &[]);
        send(killed.state.pid, Signal::KILL);
        wait_until("the death of both", || !alive(killed.state.pid) && !alive(killed.state.server));
        assert!(is_mounted(&world.path("mnt")));
        let error = fs::read(world.path("mnt").join(NAME).join("data")).unwrap_err();
        // FUSE gives the one to requests that it still had, the other to those that come later; EROFS over it
        // says EIO.
        let errors = [Some(libc::ENOTCONN), Some(libc::ECONNABORTED), Some(libc::EIO)];
        assert!(errors.contains(&error.raw_os_error()), "it fails closed: {error}");

        let statuses = world.statuses();
        assert_eq!(statuses.len(), 1);
        assert_eq!(statuses[0].state.pid, living.state.pid);
        assert!(!is_mounted(&world.path("mnt")));
        assert!(is_mounted(&world.path("other")) && alive(living.state.pid), "a live mount is not touched");

        // And the place can be used again, with what the killed one had cached.
        world.mount("mnt", &[]);
        assert_eq!(fs::read(world.path("mnt").join(NAME).join("data")).unwrap(), vec![7; 300_000]);
        world.unmount("mnt");
        world.unmount("other");
        assert_eq!(state_files(), 0);
    });
}

#[test]
fn a_terminated_server_takes_its_mount_along() {
    in_private_namespace(|| {
        let world = World::new();
        let ready = world.mount("mnt", &["--rw", "rw"]);
        send(ready.state.pid, Signal::TERM);
        wait_until("the end", || !alive(ready.state.pid));
        assert!(!is_mounted(&world.path("mnt")));
        assert_eq!(state_files(), 0);
    });
}

#[test]
fn a_writable_mount() {
    in_private_namespace(|| {
        let world = World::new();
        fs::create_dir(world.path("rw")).unwrap();
        world.mount("mnt", &["--rw", "rw"]);
        let mnt = world.path("mnt");
        fs::write(mnt.join("new"), "new").unwrap();
        fs::remove_file(mnt.join(NAME).join("data")).unwrap();
        assert_eq!(fs::read(mnt.join("new")).unwrap(), b"new");
        assert!(!mnt.join(NAME).join("data").exists());
        world.unmount("mnt");
        assert!(!is_mounted(&mnt));
        assert_eq!(fs::read(world.path("rw/upper/new")).unwrap(), b"new");

        let killed = world.mount("mnt", &["--rw", "rw"]);
        send(killed.state.pid, Signal::KILL);
        wait_until("its death", || !alive(killed.state.pid));
        assert_eq!(world.statuses(), Vec::new());
        assert!(!is_mounted(&mnt), "both mounts are taken away");
    });
}

#[test]
fn exit_codes() {
    in_private_namespace(|| {
        let world = World::new();
        let code = |arguments: &[&str]| {
            let output = world.run(arguments);
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let tag = format!("oci:{}:latest", world.seed.layout.display());
        let (refused, message) = code(&[&tag, "mnt", "--no-cache"]);
        assert_eq!(refused, Some(3), "{message}");
        assert!(
            message.contains("--allow-tag") && message.contains(&world.seed.digest.to_string()),
            "{message}"
        );
        let (allowed, message) = code(&[&tag, "mnt", "--no-cache", "--allow-tag"]);
        assert_eq!(allowed, Some(0), "{message}");
        assert!(message.contains(&world.seed.digest.to_string()), "what the tag meant is said: {message}");
        world.unmount("mnt");

        assert_eq!(code(&["nonsense"]).0, Some(2));
        let missing = format!("oci:{}@sha256:{}", world.seed.layout.display(), "0".repeat(64));
        assert_eq!(code(&[&missing, "mnt", "--no-cache"]).0, Some(1));
        assert_eq!(code(&[&world.reference(), "nowhere", "--no-cache"]).0, Some(1));
        assert_eq!(code(&[&world.reference(), "mnt", "--no-cache", "--subtree", "nix/var"]).0, Some(1));

        fs::write(world.path("policy.toml"), "level = \"zero\"\n").unwrap();
        let (refused, message) = code(&[&world.reference(), "mnt", "--no-cache", "--policy", "policy.toml"]);
        assert_eq!(refused, Some(3), "{message}");

        let manifest = world.seed.layout.join("blobs/sha256").join(world.seed.digest.hex());
        fs::set_permissions(&manifest, fs::Permissions::from_mode(0o644)).unwrap();
        let mut bytes = fs::read(&manifest).unwrap();
        let at = bytes.len() - 1;
        bytes[at] = b' ';
        fs::write(&manifest, bytes).unwrap();
        let (violated, message) = code(&[&world.reference(), "mnt", "--no-cache"]);
        assert_eq!(violated, Some(4), "{message}");
        assert!(!is_mounted(&world.path("mnt")));
        assert_eq!(state_files(), 0, "no failure leaves anything");
    });
}

#[test]
fn a_service_is_told_when_the_mount_is_ready() {
    in_private_namespace(|| {
        let world = World::new();
        let socket = UnixDatagram::bind(world.path("notify")).unwrap();
        let mut server: Child = world
            .command()
            .args([world.reference().as_str(), "mnt", "--foreground", "--no-cache"])
            .env("NOTIFY_SOCKET", world.path("notify"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        world.servers.borrow_mut().push(i32::try_from(server.id()).unwrap());
        let mut message = [0; 64];
        let mut told = || socket.recv(&mut message).map(|len| message[..len].to_vec()).unwrap();
        while told() != b"READY=1" {}
        assert!(world.path("mnt").join(NAME).is_dir());
        world.unmount("mnt");
        assert!(server.wait().unwrap().success());
    });
}

#[test]
fn a_collector_is_told_of_the_mount() {
    let collector = Collector::start(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    in_private_namespace(move || {
        let world = World::new();
        let mount = |arguments: &[&str]| {
            let mut command = world.command();
            command.args(arguments).env("SEED_OTLP_ENDPOINT", &collector.endpoint).output().unwrap()
        };
        let output = mount(&[&world.reference(), "mnt", "--json", "--no-cache"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ready: Ready = serde_json::from_slice(&output.stdout).unwrap();
        world.servers.borrow_mut().push(ready.state.pid);
        let spans = collector.spans(2);
        assert_eq!((&spans[0]["name"], &spans[1]["name"]), (&"seed-mount".into(), &"seed.mount".into()));
        assert_eq!(spans[0]["resource"]["service.name"], "seed-mount");
        assert_eq!(spans[1]["parent"], spans[0]["id"]);
        assert_eq!(spans[1]["attributes"]["seed.bytes_fetched"], ready.bytes_fetched);
        world.unmount("mnt");

        assert!(!mount(&["oci:none@sha256:0", "mnt"]).status.success());
        let spans = collector.spans(1);
        assert_eq!((&spans[0]["name"], &spans[0]["status"]), (&"seed-mount".into(), &"Error".into()));
    });
}

/// By either encoding, now and then and once more at the end; and one who does not answer is waited for by nobody
/// but the end.
#[test]
fn a_collector_gets_the_metrics() {
    let collector = Collector::start(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    in_private_namespace(move || {
        let world = World::new();
        let mount = |endpoint: &str, protocol: &str, interval: &str| {
            let mut command = world.command();
            command.args([&world.reference(), "mnt", "--json", "--no-cache", "--no-fill"]);
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
            command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
            command.env("OTEL_METRIC_EXPORT_INTERVAL", interval);
            command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-test=a%20b");
            command.env("OTEL_RESOURCE_ATTRIBUTES", "ci.job=7");
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let ready: Ready = serde_json::from_slice(&output.stdout).unwrap();
            world.servers.borrow_mut().push(ready.state.pid);
            ready
        };
        for (protocol, kind) in
            [("http/protobuf", "application/x-protobuf"), ("http/json", "application/json")]
        {
            let ready = mount(&collector.endpoint, protocol, "200");
            let first = collector.metrics();
            assert_eq!((&first["content_type"], &first["header"]), (&kind.into(), &"a b".into()));
            let resource = &first["resource"];
            assert_eq!((&resource["service.name"], &resource["ci.job"]), (&"seed-mount".into(), &"7".into()));
            fs::read(world.path("mnt").join(NAME).join("data")).unwrap();
            let stats = world.statuses()[0].stats.clone();
            // The last message has what the mount has counted in all.
            world.unmount("mnt");
            let value = |message: &Value, name: &str| {
                message["metrics"][name]["point"]["value"]
                    .as_f64()
                    .unwrap_or_else(|| panic!("{name}: {message}"))
            };
            let read = |message: &Value| value(message, "nix_seed.fuse_reads");
            let last = loop {
                let message = collector.metrics();
                if read(&message) >= stats.fuse_reads as f64 {
                    break message;
                }
            };
            assert!(stats.demand_misses > 0 && read(&first) <= read(&last), "{last}");
            for (name, _, number) in stats.each() {
                let (name, number) = match name.strip_suffix("_us") {
                    Some(name) => (name, number as f64 / 1e6),
                    None => (name, number as f64),
                };
                let metric = &last["metrics"][format!("nix_seed.{name}")];
                let sum = (&metric["type"], &metric["temporality"], &metric["monotonic"]);
                assert_eq!(sum, (&"Sum".into(), &"Cumulative".into(), &true.into()), "{name}: {metric}");
                assert!(value(&last, &format!("nix_seed.{name}")) >= number, "{name}: {metric}");
                let point = &metric["point"];
                assert_eq!(point["attributes"]["digest"], ready.state.digest.to_string());
                assert!(point["start"].as_u64() < point["time"].as_u64(), "{point}");
            }
            assert!(value(&last, "nix_seed.resident") > 1e6);
            let waits = &last["metrics"]["nix_seed.read_wait"];
            assert_eq!((&waits["type"], &waits["unit"]), (&"Histogram".into(), &"s".into()));
            let (bounds, counts) = (&waits["point"]["bounds"], waits["point"]["counts"].as_array().unwrap());
            assert_eq!(
                (bounds[0].as_f64(), counts.len()),
                (Some(250e-6), bounds.as_array().unwrap().len() + 1)
            );
            let sum: u64 = counts.iter().map(|count| count.as_u64().unwrap()).sum();
            assert_eq!(Some(sum), waits["point"]["count"].as_u64());
            assert!(sum >= stats.demand_misses, "{waits}");
        }

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        for (endpoint, protocol, says) in [
            (endpoint.as_str(), "http/json", "metrics were not taken"),
            ("http://127.0.0.1:4318", "grpc", "http/protobuf or http/json alone"),
            ("127.0.0.1:4318", "http/json", "OTEL_EXPORTER_OTLP_ENDPOINT is not valid"),
        ] {
            let ready = mount(endpoint, protocol, "60000");
            fs::read(world.path("mnt").join(NAME).join("data")).unwrap();
            let mut log = fs::File::open(&ready.state.log).unwrap();
            let begin = Instant::now();
            world.unmount("mnt");
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            assert!(text.contains(says), "{endpoint} {protocol}: {text}");
        }
    });
}

#[test]
fn a_killed_reader_does_not_wait() {
    in_private_namespace(|| {
        let world = World::new();
        // Whoever opens the layer waits for a writer that does not come.
        let layer = world.seed.layout.join("blobs/sha256").join(world.seed.manifest.layers[0].digest.hex());
        fs::remove_file(&layer).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &layer, rustix::fs::Mode::RUSR).unwrap();
        world.mount("mnt", &["--mode", "fuse", "--deadline", "600"]);
        // Unlike one for the page cache, such a read is waited for by the server's answer alone.
        let file = world.path("mnt").join(NAME).join("data");
        let mut reader = Command::new("dd")
            .args(["iflag=direct", "bs=4096", "count=1", "of=/dev/null", "status=none"])
            .arg(format!("if={}", file.display()))
            .spawn()
            .unwrap();
        let pid = i32::try_from(reader.id()).unwrap();
        wait_until("its read", || world.statuses()[0].stats.fuse_reads > 0);
        // dd handles this one: the kernel says that it was interrupted, and will not say so again.
        send(pid, Signal::USR1);
        assert!(alive(pid));
        send(pid, Signal::KILL);
        wait_until("its end", || !alive(pid));
        reader.wait().unwrap();
        world.unmount("mnt");
        assert_eq!(state_files(), 0);
    });
}
