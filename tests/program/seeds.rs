//! Seeds of a few hand-made store paths, in an image layout.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use seed_format::{Digest, StorePath};
use seed_image::artifact;
use seed_image::closure::{Closure, PathInfo};
use seed_image::manifest::{Manifest, media_type};
use seed_image::pack::{Options, Packed, pack};
use seed_image::transport::{Layout, Transport};
use seed_image::tree;
use seed_policy::core::{CoreStatement, Kind, NixConfig, Subject};

/// A statement that fits a seed which no project is compared with.
pub(crate) fn statement(seed: Digest) -> CoreStatement {
    CoreStatement {
        subject: Subject { name: "app.seed".into(), digest: seed },
        kind: Kind::Seed,
        system: seed_policy::System::current(),
        output: "packages.x86_64-linux.seed".into(),
        source: "git+https://github.com/acme/app".parse().unwrap(),
        commit: "a".repeat(40).parse().unwrap(),
        flake_lock: Digest::of(b""),
        nix_config: NixConfig::normalise("true", "", ""),
        sbom: None,
    }
}

/// The layout that the seeds are in, and the store that they are made of.
pub(crate) struct Seeds {
    pub(crate) dir: PathBuf,
    store: PathBuf,
}

impl Seeds {
    /// A layout `seeds` below `home`.
    pub(crate) fn below(home: &Path) -> Self {
        let seeds = Self { dir: home.join("seeds"), store: home.join("store/nix/store") };
        fs::create_dir_all(&seeds.store).unwrap();
        seeds
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::new(&self.dir)
    }

    /// `oci:DIR` and what follows.
    pub(crate) fn reference(&self, rest: &str) -> String {
        format!("oci:{}{rest}", self.dir.display())
    }

    /// A name in the store: the digit makes the hash part.
    pub(crate) fn path(digit: char, name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
    }

    /// Packs a seed of store paths, each with one file `content` of these bytes, and a program `bin/hello`.
    pub(crate) fn pack(&self, tag: &str, paths: &[(char, &str, &[u8])]) -> Packed {
        self.pack_with(tag, paths, seed_policy::System::current().as_str(), BTreeMap::new())
    }

    /// Makes a store root with a database, as `nix --store` does: the store paths that are in the store
    /// already, with no references.
    pub(crate) fn store_root(&self, paths: &[(char, &str, &[u8])]) -> PathBuf {
        let root = self.store.parent().unwrap().parent().unwrap().to_owned();
        let closure = self.closure(paths);
        let database = root.join("nix/var/nix/db");
        fs::create_dir_all(&database).unwrap();
        seed_image::database::write(&closure, &database.join("db.sqlite")).unwrap();
        fs::write(database.join("schema"), "10").unwrap();
        root
    }

    fn closure(&self, paths: &[(char, &str, &[u8])]) -> Closure {
        let mut closure = Closure { real_store: self.store.clone(), ..Closure::default() };
        for (digit, name, content) in paths {
            let path = Self::path(*digit, name);
            let real = self.store.join(path.base_name());
            if real.exists() {
                fs::remove_dir_all(&real).unwrap();
            }
            fs::create_dir_all(real.join("bin")).unwrap();
            fs::write(real.join("content"), content).unwrap();
            let program = real.join("bin/hello");
            fs::write(&program, "#!/bin/sh\necho hello\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let (nar_hash, nar_size) = tree::nar_hash(&real).unwrap();
            let references = Default::default();
            closure.paths.insert(path.clone(), PathInfo { path, nar_hash, nar_size, references, ca: None });
        }
        closure
    }

    /// Packs a seed with a static shell and everyday programs, that commands can run in. Gives the path of
    /// the program.
    pub(crate) fn pack_runnable(&self, tag: &str) -> (Packed, String) {
        let path = Self::path('b', "busybox");
        let real = self.store.join(path.base_name());
        fs::create_dir_all(real.join("bin")).unwrap();
        fs::copy("/bin/busybox", real.join("bin/busybox")).expect("Debian's busybox-static is installed");
        for name in ["sh", "env", "cat", "ls", "id", "sleep", "touch", "wget", "nc", "kill"] {
            let link = real.join("bin").join(name);
            if !link.exists() {
                std::os::unix::fs::symlink("busybox", link).unwrap();
            }
        }
        let mut closure = Closure { real_store: self.store.clone(), ..Closure::default() };
        let (nar_hash, nar_size) = tree::nar_hash(&real).unwrap();
        let references = Default::default();
        let info = PathInfo { path: path.clone(), nar_hash, nar_size, references, ca: None };
        closure.paths.insert(path.clone(), info);
        closure.programs.shell = Some(path.clone());
        let options = Options { workers: 1, ..Options::new(seed_policy::System::current().as_str()) };
        let packed = pack(&closure, &options, &self.layout(), Some(tag), &()).unwrap();
        (packed, format!("{path}/bin"))
    }

    /// Packs for another system, or with labels.
    pub(crate) fn pack_with(
        &self,
        tag: &str,
        paths: &[(char, &str, &[u8])],
        system: &str,
        labels: BTreeMap<String, String>,
    ) -> Packed {
        let closure = self.closure(paths);
        let options = Options { labels, workers: 1, ..Options::new(system) };
        pack(&closure, &options, &self.layout(), Some(tag), &()).unwrap()
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Changes one byte of a blob, and nothing of its name.
    pub(crate) fn corrupt(&self, digest: &Digest, at: usize) {
        let file = self.blob(digest);
        let mut bytes = fs::read(&file).unwrap();
        bytes[at] ^= 1;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, bytes).unwrap();
    }

    /// Publishes a changed copy of a seed's manifest under a tag.
    pub(crate) fn republish(&self, digest: &Digest, tag: &str, change: impl FnOnce(&mut Manifest)) -> Digest {
        let mut manifest = Manifest::parse(&self.layout().manifest(digest).unwrap()).unwrap();
        change(&mut manifest);
        self.layout().put_manifest(&manifest.to_bytes(), media_type::MANIFEST, Some(tag)).unwrap()
    }

    /// Puts a referrer with one layer of these bytes beside a seed.
    pub(crate) fn refer(&self, seed: &Digest, kind: &str, text: &[u8]) {
        artifact::publish(&self.layout(), seed, kind, text, BTreeMap::new()).unwrap();
    }
}
