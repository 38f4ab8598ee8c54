//! Servers that results are sent to and sources are fetched from, on free ports, gone with their owner.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Program;

/// A server that ends with the test.
pub(crate) struct Server {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
}

impl Server {
    /// nginx, which keeps what is PUT.
    pub(crate) fn nginx(program: &Program) -> Self {
        Self::nginx_with(program, "", "")
    }

    /// nginx by TLS, for `127.0.0.1` and with a certificate of a root that nobody knows: `ca.pem` beside
    /// `nginx.conf`. Lets nobody in but `builder` with this password.
    pub(crate) fn private_nginx(program: &Program, password: &str) -> Self {
        let home = program.home().join("nginx");
        std::fs::create_dir_all(&home).unwrap();
        let script = r#"
            key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
            openssl req -x509 $key -subj /CN=root -keyout ca.key -out ca.pem
            openssl req $key -subj /CN=server -keyout server.key -out server.csr
            echo subjectAltName=IP:127.0.0.1 > extensions
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile extensions -out server.pem
            htpasswd -nbm builder "$0" > passwords"#;
        let made = Command::new("sh").args(["-euc", script, password]).current_dir(&home).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let home = home.display();
        let access = format!(
            "ssl_certificate {home}/server.pem; ssl_certificate_key {home}/server.key;\n\
             auth_basic cache; auth_basic_user_file {home}/passwords;"
        );
        Self::nginx_with(program, " ssl", &access)
    }

    fn nginx_with(program: &Program, listen: &str, more: &str) -> Self {
        let host = free_host();
        let home = program.home().join("nginx");
        std::fs::create_dir_all(home.join("files")).unwrap();
        let home = home.display();
        let config = program.write(
            "nginx/nginx.conf",
            format!(
                "daemon off; master_process off; user root; pid {home}/pid; error_log {home}/log;\n\
                 events {{}}\n\
                 http {{ access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;\n\
                 fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;\n\
                 server {{ listen {host}{listen}; root {home}/files; client_max_body_size 0; {more}\n\
                 location / {{ dav_methods PUT; create_full_put_path on; }} }} }}\n"
            ),
        );
        Self::start(Command::new("nginx").arg("-c").arg(config), host)
    }

    /// An S3 server in memory, with the bucket `results`.
    pub(crate) fn s3() -> Self {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/go-tools");
        let made = Command::new(tools).arg("gofakes3").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let host = free_host();
        let program = String::from_utf8(made.stdout).unwrap();
        let mut command = Command::new(program.trim());
        command.args(["-backend", "memory", "-initialbucket", "results", "-host", &host]);
        Self::start(&mut command, host)
    }

    /// A Git server of the repositories in `directory`.
    pub(crate) fn git(directory: &Path) -> Self {
        let host = free_host();
        let programs = Command::new("git").arg("--exec-path").output().unwrap();
        let program = Path::new(String::from_utf8(programs.stdout).unwrap().trim()).join("git-daemon");
        let mut command = Command::new(program);
        let (address, port) = host.split_once(':').unwrap();
        command.args([
            "--export-all",
            "--reuseaddr",
            &format!("--listen={address}"),
            &format!("--port={port}"),
        ]);
        command.arg(format!("--base-path={}", directory.display())).arg(directory);
        Self::start(&mut command, host)
    }

    fn start(command: &mut Command, host: String) -> Self {
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { process, host };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&server.host).is_err() {
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{command:?} does not listen: {ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }
}

/// The port is free again when the listener is dropped, and given to nobody else so soon.
fn free_host() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
