//! The demo project in a repository, on machines with Nix and without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Program, Run};

/// The demo project in a repository, and the program.
pub(crate) struct Checkout {
    pub(crate) program: Program,
    pub(crate) dir: PathBuf,
}

impl Checkout {
    pub(crate) fn new() -> Self {
        let program = Program::new();
        let dir = program.home().join("sprout");
        let made = Command::new(script("project")).arg(&dir).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let checkout = Self { program, dir };
        checkout.git(&["init", "--quiet", "--initial-branch=main"]);
        for (key, value) in
            [("user.name", "Test"), ("user.email", "test@example.org"), ("commit.gpgsign", "false")]
        {
            checkout.git(&["config", key, value]);
        }
        checkout.git(&["remote", "add", "origin", "git@example.org:acme/sprout.git"]);
        checkout.git(&["add", "."]);
        checkout.git(&["commit", "--quiet", "--message", "first"]);
        checkout
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git").arg("-C").arg(&self.dir).args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs `seed` in the project, on a machine with Nix.
    pub(crate) fn with_nix(&self, args: &[&str]) -> Run {
        let seed = self.program.command(args);
        self.on_nix("2.8", &seed)
    }

    /// Runs a command in the project, on a machine with this version of Nix.
    pub(crate) fn on_nix(&self, version: &str, inside: &Command) -> Run {
        let mut command = Command::new(script("run"));
        command.args(["--nix", version]);
        // The environment is found in the tester's cache, before `seed` gets a home of its own.
        command.arg("env").args(
            inside
                .get_envs()
                .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?))),
        );
        command.arg(inside.get_program()).args(inside.get_args()).current_dir(&self.dir);
        Run::of(&mut command)
    }

    /// Runs `seed` in the project, on a machine without Nix and network.
    pub(crate) fn without_nix(&self, args: &[&str]) -> Run {
        self.hidden_nix(&["--net"], args, &[])
    }

    /// Runs `seed` in the project, on a machine without Nix, with more variables.
    pub(crate) fn without_nix_online(&self, args: &[&str], variables: &[(&str, &str)]) -> Run {
        self.hidden_nix(&[], args, variables)
    }

    fn hidden_nix(&self, namespaces: &[&str], args: &[&str], variables: &[(&str, &str)]) -> Run {
        let hide = r#"[ ! -d /nix ] || mount -t tmpfs none /nix
            for nix in $(type -ap nix); do mount --bind /dev/null "$nix"; done; exec "$@""#;
        let seed = self.program.command(args);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).args(namespaces);
        command.args(["--", "bash", "-euc", hide, "seed"]);
        command.arg(seed.get_program()).args(seed.get_args()).current_dir(&self.dir);
        for (name, value) in seed.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Run::of(command.envs(variables.iter().copied()))
    }

    /// Runs a script in the project, on a machine without Nix and network, with an empty `/nix` to mount at.
    pub(crate) fn with_empty_nix(&self, script_text: &str) -> Run {
        let empty = self.program.home().join("empty");
        fs::create_dir_all(&empty).unwrap();
        let seed = self.program.command(["help"]);
        let mut command = Command::new(script("enter"));
        command.arg(empty).args([
            "unshare",
            "--net",
            "bash",
            "-euc",
            script_text,
            seed.get_program().to_str().unwrap(),
        ]);
        for (name, value) in seed.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Run::of(command.current_dir(&self.dir))
    }

    pub(crate) fn change(&self, version: &str) {
        fs::write(self.dir.join("VERSION"), format!("{version}\n")).unwrap();
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nix").join(name)
}
