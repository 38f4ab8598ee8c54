//! The servers of a run: a registry, and an HTTP server for what is not in it. Both listen at the servers' end
//! of the link and serve from directories that last, and end when they are dropped.

use std::fs::{self, File};
use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::faults::{self, Faults};
use crate::link::{Namespace, SERVER};

const REGISTRY_PORT: u16 = 5000;
/// Of the registry with failures in front of it.
const FAILING_PORT: u16 = 5001;
const HTTP_PORT: u16 = 8080;

/// Servers that are ready.
#[derive(Debug)]
pub(crate) struct Servers {
    _registry: Server,
    _http: Server,
    faults: Arc<Faults>,
}

impl Servers {
    /// Starts both: the registry keeps its blobs in `state/registry`, `documents` is what HTTP serves. Of
    /// 1,000 requests to the registry's second address, `per_mille` fail ([`faults`]).
    pub(crate) fn start(
        namespace: &Namespace,
        state: &Path,
        documents: &Path,
        per_mille: u64,
    ) -> Result<Self> {
        fs::create_dir_all(state).with_context(|| state.display().to_string())?;
        let registry = registry(namespace, state, REGISTRY_PORT)?;
        let faults = faults::start(namespace, Self::failing_registry(), Self::registry(), per_mille)?;
        Ok(Self { _registry: registry, _http: http(namespace, state, documents)?, faults })
    }

    /// How many requests to the failing registry there were, and how many of them failed.
    pub(crate) fn faults(&self) -> (u64, u64) {
        self.faults.counts()
    }

    /// `host:port` of the registry; it speaks plain HTTP.
    pub(crate) fn registry() -> SocketAddrV4 {
        SocketAddrV4::new(SERVER, REGISTRY_PORT)
    }

    /// `host:port` at which the same registry lets some of the requests fail.
    pub(crate) fn failing_registry() -> SocketAddrV4 {
        SocketAddrV4::new(SERVER, FAILING_PORT)
    }

    /// Base of the HTTP server's addresses.
    pub(crate) fn http() -> String {
        format!("http://{SERVER}:{HTTP_PORT}")
    }
}

#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn registry(namespace: &Namespace, state: &Path, port: u16) -> Result<Server> {
    let configuration = state.join("registry.yml");
    write(
        &configuration,
        &format!(
            "version: 0.1\nlog: {{ level: warn, accesslog: {{ disabled: true }} }}\n\
             storage:\n  filesystem: {{ rootdirectory: {} }}\n  delete: {{ enabled: true }}\n\
             http: {{ addr: \"{SERVER}:{port}\" }}\n",
            state.join("registry").display()
        ),
    )?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(configuration);
    start(namespace, command, port, &state.join("registry.log"))
}

fn http(namespace: &Namespace, state: &Path, documents: &Path) -> Result<Server> {
    let configuration = state.join("nginx.conf");
    let state_ = state.display();
    write(
        &configuration,
        &format!(
            "daemon off; master_process off; worker_processes 1; pid {state_}/nginx.pid; user root;\n\
             error_log stderr warn;\nevents {{ worker_connections 1024; }}\n\
             http {{\n  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;\n  \
             client_body_temp_path {state_}/nginx-body; proxy_temp_path {state_}/nginx-proxy;\n  \
             fastcgi_temp_path {state_}/nginx-fastcgi; uwsgi_temp_path {state_}/nginx-uwsgi;\n  \
             scgi_temp_path {state_}/nginx-scgi;\n  \
             server {{ listen {SERVER}:{HTTP_PORT}; root {}; }}\n}}\n",
            documents.display()
        ),
    )?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg("stderr").arg("-c").arg(configuration);
    start(namespace, command, HTTP_PORT, &state.join("nginx.log"))
}

/// Starts a server in the namespace, and waits until it listens.
fn start(namespace: &Namespace, mut command: Command, port: u16, log: &Path) -> Result<Server> {
    const DEADLINE: Duration = Duration::from_secs(30);

    let program = command.get_program().to_owned();
    let output = File::create(log).with_context(|| log.display().to_string())?;
    command.stdin(Stdio::null()).stdout(output.try_clone().context("log")?).stderr(output);
    namespace.run(move || {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}; ./bench/run installs it", program.display()))?;
        let mut server = Server(child);
        let address = SocketAddrV4::new(SERVER, port);
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.0.try_wait().context("cannot wait for a server")? {
                bail!("{} ended at once: {status}; see {}", program.display(), log.display());
            }
            if started.elapsed() > DEADLINE {
                bail!("{} does not listen on {address}; see {}", program.display(), log.display());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    })?
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
