//! Real registries on free loopback ports, gone with the test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The registries that the tests start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian's `docker-registry`, distribution 2.8.
    Docker,
    /// distribution 3.
    Distribution,
    /// go-containerregistry's server, with the referrers API.
    Referrers,
}

pub(crate) const ALL: [Kind; 3] = [Kind::Docker, Kind::Distribution, Kind::Referrers];

/// A registry that is running.
pub(crate) struct Server {
    child: Child,
    home: tempfile::TempDir,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// How a registry is configured beyond the least.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// User and password that are asked for.
    pub(crate) user: Option<(&'static str, &'static str)>,
    /// Certificate and key, PEM.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// Certificate of the authority that clients must have theirs of, PEM.
    pub(crate) client_authority: Option<PathBuf>,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        Self::start_with(kind, &Setup::default())
    }

    pub(crate) fn start_with(kind: Kind, setup: &Setup) -> Self {
        let home = tempfile::tempdir().unwrap();
        // The registry dies with the thread that started it, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        match kind {
            Kind::Docker => command.args(["docker-registry", "serve"]),
            Kind::Distribution => command.arg(tool("registry")).arg("serve"),
            Kind::Referrers => command.arg(tool("referrers-registry")).arg("127.0.0.1:0"),
        };
        if kind != Kind::Referrers {
            let config = home.path().join("config.yml");
            fs::write(&config, configuration(home.path(), setup)).unwrap();
            command.arg(config);
        }
        let mut child = command
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux) starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, receiver) = mpsc::channel();
        follow(child.stdout.take().unwrap(), log.clone(), sender.clone());
        follow(child.stderr.take().unwrap(), log.clone(), sender);
        let server = Self { child, home, address: String::new(), log };
        match receiver.recv_timeout(Duration::from_secs(60)) {
            Ok(address) => server.at(address),
            Err(_) => panic!("{kind:?} did not start (is docker-registry installed?): {:?}", server.log()),
        }
    }

    fn at(mut self, address: String) -> Self {
        self.address = address;
        self
    }

    /// What the registry logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The file in which docker-registry and distribution keep a blob.
    pub(crate) fn blob_file(&self, hex: &str) -> PathBuf {
        self.home.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(home: &Path, setup: &Setup) -> String {
    let data = home.join("data");
    let mut text = format!(
        "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http:\n  addr: 127.0.0.1:0\n  secret: test\n",
        data.display()
    );
    if let Some((certificate, key)) = &setup.tls {
        let clients = setup.client_authority.iter().map(|ca| ca.display().to_string());
        let clients = clients.collect::<Vec<_>>().join(", ");
        let (certificate, key) = (certificate.display(), key.display());
        text += &format!("  tls: {{certificate: {certificate}, key: {key}, clientcas: [{clients}]}}\n");
    }
    if let Some((user, password)) = setup.user {
        let file = home.join("htpasswd");
        let made = Command::new("htpasswd").args(["-Bbn", user, password]).output();
        fs::write(&file, made.expect("htpasswd (apache2-utils) runs").stdout).unwrap();
        text += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
    }
    text
}

/// Collects what a registry prints, and sends the address that it says it listens on.
fn follow(output: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>, found: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(at) = line.find("127.0.0.1:") {
                let port: String = line[at + 10..].chars().take_while(char::is_ascii_digit).collect();
                let listening = line.contains("listening on") || line.starts_with("127.0.0.1:");
                if listening && !port.is_empty() {
                    let _ = found.send(format!("127.0.0.1:{port}"));
                }
            }
            log.lock().unwrap().push(line);
        }
    });
}

/// A program of `tests/tools/go-tools`, made if it is missing.
pub(crate) fn tool(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools/go-tools");
    let output = Command::new(script).arg(name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Runs crane, go-containerregistry's client, and gives what it prints.
pub(crate) fn crane(arguments: &[&str]) -> String {
    let output = Command::new(tool("crane")).args(arguments).env("HOME", "/nonexistent").output().unwrap();
    assert!(output.status.success(), "crane {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
