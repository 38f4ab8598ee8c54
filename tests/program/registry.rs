//! A real registry on this machine: Debian's docker-registry.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::Program;

/// A registry that ends with the test.
pub(crate) struct Registry {
    server: Child,
    pub(crate) host: String,
}

impl Registry {
    pub(crate) fn start(program: &Program) -> Self {
        // The port is free again when the listener is dropped, and given to nobody else so soon.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let root = program.home().join("registry");
        let config = program.write(
            "registry.yml",
            format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}}}\n",
                root.display()
            ),
        );
        let mut server = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("Debian's docker-registry is installed");
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("listening on")), "the registry did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self { server, host }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
