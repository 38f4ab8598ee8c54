use std::collections::BTreeSet;
use std::process::Command;

use seed_format::Digest;

use super::*;
use crate::closure::{PathInfo, Realisation};
use crate::tree;

/// A store of a file, a link to it, a derivation and a path that refers to itself.
fn store(root: &Path) -> Closure {
    let real_store = root.join("nix/store");
    fs::create_dir_all(&real_store).unwrap();
    let path = |digit: char, name: &str| {
        StorePath::from_base_name(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
    };
    let (file, link, derivation, itself) =
        (path('0', "file"), path('1', "link"), path('2', "x.drv"), path('3', "itself"));
    fs::write(real_store.join(file.base_name()), "hello\n").unwrap();
    std::os::unix::fs::symlink(file.to_string(), real_store.join(link.base_name())).unwrap();
    let text = format!(
        r#"Derive([("out","{itself}","","")],[],[],"x86_64-linux","/bin/sh",[],[("out","{itself}")])"#
    );
    fs::write(real_store.join(derivation.base_name()), text).unwrap();
    fs::create_dir(real_store.join(itself.base_name())).unwrap();
    fs::write(real_store.join(itself.base_name()).join("self"), itself.to_string()).unwrap();

    let mut closure = Closure { real_store, ..Closure::default() };
    for (path, references) in
        [(&file, vec![]), (&link, vec![&file]), (&derivation, vec![]), (&itself, vec![&itself, &link])]
    {
        let (nar_hash, nar_size) = tree::nar_hash(&closure.real_path(path)).unwrap();
        let references = references.into_iter().cloned().collect();
        let info = PathInfo { path: path.clone(), nar_hash, nar_size, references, ca: None };
        closure.paths.insert(path.clone(), info);
    }
    closure
}

/// Runs a program of Nix on the store below `root`, as nobody but root could have set it up.
fn nix(root: &Path, program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(["--store", root.to_str().unwrap()])
        .args(args)
        .args(["--option", "build-users-group", ""])
        .env("HOME", root)
        .env("NIX_STATE_DIR", root.join("nix/var/nix"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn install(closure: &Closure, root: &Path) {
    let db = root.join("nix/var/nix/db");
    fs::create_dir_all(&db).unwrap();
    write(closure, &db.join("db.sqlite")).unwrap();
    fs::write(db.join("schema"), SCHEMA_VERSION).unwrap();
}

#[test]
fn nix_takes_it_as_its_own() {
    let scratch = tempfile::tempdir().unwrap();
    let closure = store(scratch.path());
    install(&closure, scratch.path());

    let (ok, text) = nix(scratch.path(), "nix-store", &["--verify", "--check-contents"]);
    assert!(ok && !text.contains("error") && !text.contains("modified"), "{text}");

    let itself = closure.paths.keys().next_back().unwrap().to_string();
    let (ok, text) = nix(scratch.path(), "nix-store", &["--query", "--requisites", &itself]);
    let requisites: BTreeSet<_> = text.lines().collect();
    let expected = closure.paths.keys().filter(|path| !path.is_derivation()).map(ToString::to_string);
    assert!(ok && expected.clone().count() == 3, "{text}");
    assert_eq!(requisites, expected.collect::<Vec<_>>().iter().map(String::as_str).collect());

    let database = Connection::open(scratch.path().join("nix/var/nix/db/db.sqlite")).unwrap();
    let outputs: Vec<(String, String)> = database
        .prepare("select ValidPaths.path, DerivationOutputs.path from DerivationOutputs join ValidPaths on drv = ValidPaths.id")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let derivation = closure.paths.keys().find(|path| path.is_derivation()).unwrap().to_string();
    assert_eq!(outputs, [(derivation, itself)]);
}

#[test]
fn nix_finds_what_was_changed() {
    let scratch = tempfile::tempdir().unwrap();
    let closure = store(scratch.path());
    install(&closure, scratch.path());
    let file = closure.real_path(closure.paths.keys().next().unwrap());
    fs::write(&file, "other\n").unwrap();
    let (ok, text) = nix(scratch.path(), "nix-store", &["--verify", "--check-contents"]);
    assert!(!ok && text.contains("was modified"), "{text}");
}

#[test]
fn equal_closures_make_equal_files() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    write(&store(one.path()), &one.path().join("db")).unwrap();
    write(&store(two.path()), &two.path().join("db")).unwrap();
    let bytes = fs::read(one.path().join("db")).unwrap();
    assert!(bytes == fs::read(two.path().join("db")).unwrap());
    assert_eq!(&bytes[18..20], [1, 1], "no write-ahead log");
    assert_eq!(
        Digest::of(&bytes).hex(),
        "77af2f437faae3a1f16da0ceaa868b40af1b99dae15992722564aff5a66ef204",
        "the database changed: every seed changes; a new SQLite is a reason, an accident is not"
    );
}

#[test]
fn realisations_are_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let mut closure = store(scratch.path());
    let out = closure.paths.keys().next_back().unwrap().clone();
    let realisation = |n: u8, references: &[u8]| Realisation {
        derivation: Digest::of(&[n]).to_string(),
        output: "out".into(),
        path: out.clone(),
        references: references.iter().map(|n| (Digest::of(&[*n]).to_string(), "out".to_owned())).collect(),
    };
    closure.realisations = [realisation(1, &[2]), realisation(2, &[])].into();
    let file = scratch.path().join("db");
    write(&closure, &file).unwrap();
    let database = Connection::open(&file).unwrap();
    let rows: i64 = database
        .query_row(
            "select count(*) from RealisationsRefs join Realisations on referrer = id where drvPath = ?",
            [Digest::of(&[1]).to_string()],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(rows, 1);

    closure.realisations = [realisation(1, &[2])].into();
    let error = write(&closure, &scratch.path().join("db2")).unwrap_err();
    assert!(matches!(error, DatabaseError::Realisation { .. }), "{error}");
}

#[test]
fn says_what_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let closure = store(scratch.path());
    let derivation = closure.paths.keys().find(|path| path.is_derivation()).unwrap();
    fs::write(closure.real_path(derivation), "no derivation").unwrap();
    let error = write(&closure, &scratch.path().join("db")).unwrap_err();
    assert_eq!(error.to_string(), format!("{derivation} is not a derivation"));

    fs::remove_file(closure.real_path(derivation)).unwrap();
    let error = write(&closure, &scratch.path().join("db")).unwrap_err();
    assert!(matches!(error, DatabaseError::Io { .. }), "{error}");
}
