//! `seed report` in a real browser, and what Prometheus gets. Needs root, /dev/fuse and Debian's
//! chromium-headless-shell.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use program::Program;
use program::registry::Registry;
use program::seeds::Seeds;
use serde_json::Value;

/// Takes all mounts away, however the test ends.
struct Mounts<'a>(&'a Program);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        let _ = self.0.command(["unmount", "--all", "--lazy"]).output();
    }
}

/// A browser without a screen, with more arguments.
fn browser(program: &Program, page: &Path, more: &[&str]) -> Output {
    let profile = format!("--user-data-dir={}", program.home().join("profile").display());
    let output = Command::new("chromium-headless-shell")
        .args([
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--log-level=0",
        ])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", &profile])
        .args(more)
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("Debian's chromium-headless-shell is installed");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("CONSOLE"), "{log}");
    output
}

/// The counters of a page, by name.
fn counters(dom: &str) -> BTreeMap<String, u64> {
    let cells = dom.split("data-counter=\"").skip(1);
    let read = |cell: &str| {
        let (name, rest) = cell.split_once("\">").unwrap();
        (name.to_owned(), rest.split_once('<').unwrap().0.parse().unwrap())
    };
    cells.map(read).collect()
}

fn body(mut stream: impl Read + Write, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    body.to_owned()
}

#[test]
fn a_browser_shows_what_a_mount_did() {
    let program = Program::new();
    let registry = Registry::start(&program);
    let seeds = Seeds::below(program.home());
    let noise: Vec<u8> = (0..500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let hostile = "x<script>alert(1)</script>";
    let packed =
        seeds.pack("main", &[('1', "one", &noise), ('2', "two", &noise[..900_000]), ('3', "three", b"3")]);
    let there = format!("{}/acme/app.seed", registry.host);
    program.run(["copy", &seeds.reference(":main"), &format!("{there}:main")]).ended_with(0);
    let seed = format!("{there}@{}", packed.digest);

    let _mounts = Mounts(&program);
    let directory = program.home().join(format!("mnt {}", hostile.replace('/', "|")));
    fs::create_dir(&directory).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mount = ["mount", &seed, directory.to_str().unwrap(), "--no-fill", "--metrics", &port.to_string()];
    program.run(mount).ended_with(0);
    let file = |digit, name: &str| directory.join(Seeds::path(digit, name).base_name()).join("content");
    assert_eq!(fs::read(file('1', "one")).unwrap(), noise);
    fs::read(file('3', "three")).unwrap();

    // Nothing is read any more, and nothing fetched: the numbers stay.
    let status = || program.run(["status", "--json"]).ended_with(0).json()[0]["stats"].clone();
    let mut stats = status();
    let page = program.home().join("report.html");
    loop {
        program.run(["report", "--output", page.to_str().unwrap()]).ended_with(0);
        let later = status();
        if later == stats {
            break;
        }
        stats = later;
    }
    let dom = browser(&program, &page, &["--dump-dom"]);
    let dom = String::from_utf8(dom.stdout).unwrap();
    let expected: BTreeMap<String, u64> = serde_json::from_value(stats.clone()).unwrap();
    assert_eq!(counters(&dom), expected);
    assert!(
        expected["demand_misses"] > 0 && dom.matches("<circle").count() as u64 >= expected["demand_misses"]
    );
    assert!(dom.contains("<rect class=\"demand\"") && !dom.contains("<script>alert"), "{dom}");
    let picture = program.home().join("report.png");
    browser(&program, &page, &["--window-size=1120,1500", &format!("--screenshot={}", picture.display())]);
    let picture = fs::read(picture).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 30_000, "{} bytes", picture.len());

    let report = &program.run(["report", directory.to_str().unwrap(), "--json"]).ended_with(0).json()[0];
    assert_eq!(report["stats"], stats);
    let whole = &report["whole"];
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap();
    assert!(number(whole, "read") > 1_000_000 && number(whole, "fetched") <= number(&stats, "bytes_fetched"));
    let sum = |name: &str| {
        report["layers"].as_array().unwrap().iter().map(|layer| number(layer, name)).sum::<u64>()
    };
    for name in ["bytes", "fetched", "read", "wasted", "misses", "wait"] {
        assert_eq!(sum(name), number(whole, name), "{name}");
    }
    let paths = report["paths"].as_array().unwrap();
    assert!(paths[0]["name"].as_str().unwrap().ends_with("-one"), "{paths:?}");
    assert_eq!(
        report["waits"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>(),
        number(&stats, "demand_misses")
    );

    // Prometheus gets the same by either way.
    let state = fs::read_dir(program.home().join("run")).unwrap().map(|entry| entry.unwrap().path());
    let socket = state.into_iter().find(|path| path.extension().is_some_and(|end| end == "http")).unwrap();
    for text in [
        body(TcpStream::connect(port).unwrap(), "/metrics"),
        body(UnixStream::connect(&socket).unwrap(), "/metrics"),
    ] {
        let value = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name}{{")))
                .unwrap_or_else(|| panic!("{name}: {text}"));
            line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
        };
        assert_eq!(value("nix_seed_bytes_fetched_total"), number(&stats, "bytes_fetched") as f64);
        assert_eq!(value("nix_seed_read_wait_seconds_count"), number(&stats, "demand_misses") as f64);
        assert!(value("nix_seed_resident_bytes") > 1e6);
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("nix_seed_")), "{text}");
    }

    let mut watching =
        program.command(["status", "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let (first, second) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!((&first["stats"], &first["rate"], &second["rate"]), (&stats, &Value::Null, &0.0.into()));

    program.run(["report", "/"]).ended_with(1).says("no seed is mounted");
    program.run(["unmount", "--all"]).ended_with(0);
    assert_eq!(lines.filter(|line| line["stats"] != stats && !line["stats"].is_null()).count(), 0);
    assert!(watching.wait().unwrap().success());
    assert!(!socket.exists());
    program
        .run(["mount", &seed, directory.to_str().unwrap(), "--metrics", "192.0.2.1:1"])
        .ended_with(1)
        .says("other machines");
    program.run(["report", "--output", page.to_str().unwrap()]).ended_with(0);
    browser(&program, &page, &["--dump-dom"]);
}
