//! Results on their way to a cache that lets not everybody in, and to Cachix. Needs root, /dev/fuse, nginx, openssl,
//! htpasswd and the test environment of `tests/nix`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use program::Run;
use program::checkout::Checkout;
use program::server::Server;

const USER: &str = "65534";

/// The demo project, packed and changed since; and its seed.
fn packed() -> (Checkout, String) {
    let checkout = Checkout::new();
    let to = format!("oci:{}", checkout.program.home().join("seeds").display());
    let seed = checkout.with_nix(&["pack", "--no-check", "--to", &to]).ended_with(0).stdout;
    checkout.change("3.0");
    (checkout, seed.trim().to_owned())
}

/// Runs `seed` in the project as an ordinary user, on a machine without Nix.
fn as_user(checkout: &Checkout, args: &[&str], variables: &[(&str, &str)]) -> Run {
    let home = checkout.program.home();
    let seed = home.join("programs/seed");
    if !seed.exists() {
        fs::create_dir(seed.parent().unwrap()).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_seed"), &seed).unwrap();
    }
    // Root's part of the cache is not the user's.
    for directory in ["programs", "seeds", "sprout", "user"] {
        fs::create_dir_all(home.join(directory)).unwrap();
        let owned = Command::new("chown").args(["-R", USER]).arg(home.join(directory)).status();
        assert!(owned.unwrap().success());
    }
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    let script = r#"
        device=$(mktemp -d -p /dev/shm) && mount -t tmpfs none "$device"
        mknod -m 0666 "$device/fuse" c 10 229
        mount --bind "$device/fuse" /dev/fuse
        umount -l "$device" && rmdir "$device"
        exec setpriv --reuid "$0" --regid "$0" --clear-groups -- "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script, USER]).arg(seed).args(args);
    for (name, value) in checkout.program.command(["help"]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    for (name, directory) in [
        ("HOME", "user"),
        ("SEED_CACHE_DIR", "user/cache"),
        ("SEED_RUNTIME_DIR", "user/run"),
        ("SEED_SANDBOX_RESULTS", "user/results"),
    ] {
        command.env(name, home.join(directory));
    }
    Run::of(command.envs(variables.iter().copied()).current_dir(&checkout.dir))
}

/// Names of files below a directory that end so.
fn files(directory: &Path, end: &str) -> Vec<String> {
    let names =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(end)).collect()
}

/// Store paths of what a build made.
fn outputs(run: &Run) -> Vec<String> {
    let outputs = run.json()[0]["targets"][0]["outputs"].as_array().unwrap().clone();
    outputs.iter().map(|output| output["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_private_cache_takes_what_who_is_let_in_brings() {
    let (checkout, seed) = packed();
    let home = checkout.program.home();
    let server = Server::private_nginx(&checkout.program, "correct-horse");
    let url = format!("https://{}", server.host);
    let stored = home.join("nginx/files");
    let ca = home.join("nginx/ca.pem");
    let ca = ca.to_str().unwrap();
    let netrc = |name: &str, password: &str| {
        let host = server.host.split_once(':').unwrap().0;
        let text = format!("machine {host} login builder password {password}\n");
        let file = checkout.program.write(name, text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (netrc("right", "correct-horse"), netrc("wrong", "battery-staple"));
    let build = ["build", "--seed", &seed, "--no-link", "--json", "-vv", "--to", &url];
    type As = fn(&Checkout, &[&str], &[(&str, &str)]) -> Run;
    let ways = [
        ("root", Checkout::without_nix_online as As, "NIX_SSL_CERT_FILE", "SSL_CERT_FILE"),
        ("user", as_user, "SSL_CERT_FILE", "NIX_SSL_CERT_FILE"),
    ];
    for (who, run, variable, unset) in ways {
        let send = |file: &str, roots: &str, more: &[&str]| {
            let args = [&build[..], &["--netrc", file], more].concat();
            let run = run(&checkout, &args, &[(variable, roots), (unset, "")]);
            let printed = [run.stdout.as_str(), run.stderr.as_str()].concat();
            assert!(!printed.contains("correct-horse") && !printed.contains("battery-staple"), "{printed}");
            run
        };
        if who == "root" {
            let run = send(&right, "", &[]).ended_with(1).says("nothing can be put into");
            run.says("TLS failed").says("NIX_SSL_CERT_FILE");
        }
        let run = send(&wrong, ca, &[]).ended_with(1).says("nothing can be put into");
        let run = run.says("401").says("--netrc FILE");
        assert!(!run.stderr.contains("building"), "that is told before: {}", run.stderr);
        assert_eq!(files(&stored, ".narinfo"), [] as [&str; 0], "{who}");

        // To a cache in a directory and to a store on the way, which are then who ran it's.
        let (cache, store) = (home.join(who).join("binary"), home.join(who).join("store"));
        let more = [format!("file://{}", cache.display()), store.to_str().unwrap().to_owned()];
        let sent = send(&right, ca, &["--to", &more[0], "--to", &more[1]]).ended_with(0);
        let outputs = outputs(&sent);
        assert_eq!(outputs.len(), 4, "{who}");
        for path in &outputs {
            let name = format!("{}.narinfo", &path["/nix/store/".len()..][..32]);
            assert!(stored.join(&name).is_file() && cache.join(&name).is_file(), "{who}: {name}");
            let copy = fs::symlink_metadata(store.join(&path[1..])).unwrap();
            assert_eq!(copy.uid(), if who == "root" { 0 } else { USER.parse().unwrap() }, "{who}: {path}");
        }
        assert!(store.join("nix/var/nix/db/db.sqlite").is_file(), "{who}");
        fs::remove_dir_all(&stored).unwrap();
        fs::create_dir(&stored).unwrap();
    }
    for left in ["cache/scratch", "cache/tmp", "user/cache/scratch", "user/cache/tmp"] {
        assert_eq!(fs::read_dir(home.join(left)).into_iter().flatten().count(), 0, "{left}");
    }
}

/// There is no Cachix to talk to: a program of that name notes what it is told, and that the machine's store has
/// all of it.
#[test]
fn cachix_pushes_from_the_machines_store() {
    let (checkout, seed) = packed();
    let home = checkout.program.home();
    let build = ["build", "--seed", &seed, "--no-link", "--json", "--to", "cachix:acme"];
    // What is missing is told before anything is opened or built.
    let run = checkout.without_nix_online(&build, &[]).ended_with(1).says("there is no `cachix` on PATH");
    assert!(!run.stderr.contains("evaluat"), "{}", run.stderr);
    assert!(!home.join("cache/chunks").exists() || files(&home.join("cache/chunks"), ".data").is_empty());

    let notes = home.join("notes");
    let script = format!(
        "#!/bin/sh\necho \"$@\" > {notes}\nshift 2\nfor path; do ls -d \"$path\" >> {notes}; done\nexit $CACHIX_CODE\n",
        notes = notes.display()
    );
    let cachix = checkout.program.write("bin/cachix", script);
    let push = |code: &str| {
        let program = checkout.program.command(build);
        let mut command = Command::new("env");
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("CACHIX_CODE", code);
        let script = r#"PATH=$0:$PATH; exec "$@""#;
        command.args(["bash", "-euc", script]).arg(home.join("bin"));
        command.arg(program.get_program()).args(program.get_args());
        checkout.on_nix("2.8", &command)
    };
    // A file that is no program is none.
    push("0").ended_with(1).says("there is no `cachix` on PATH");
    fs::set_permissions(&cachix, fs::Permissions::from_mode(0o755)).unwrap();
    let run = push("0").ended_with(0);
    let paths = outputs(&run);
    let noted = fs::read_to_string(&notes).unwrap();
    let lines: Vec<_> = noted.lines().collect();
    assert_eq!(lines[0], format!("push acme {}", paths.join(" ")));
    assert_eq!(&lines[1..], paths, "the store has them");
    push("3").ended_with(1).says("`cachix` failed").says("CACHIX_AUTH_TOKEN");
    let left: Vec<PathBuf> =
        fs::read_dir(home.join("cache/tmp")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [] as [PathBuf; 0]);
}
