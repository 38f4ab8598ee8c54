use std::collections::BTreeMap;

use git2::{Oid, Repository, Signature, Time};

use super::*;

const SCHEMA: &str = "CREATE TABLE Cache (
    domain    text not null,
    key       text not null,
    value     text not null,
    timestamp integer not null,
    primary key (domain, key)
)";

/// The schema of Nix 2.8.
const OLD_SCHEMA: &str = "CREATE TABLE Cache (
    input     text not null,
    info      text not null,
    path      text not null,
    immutable integer not null,
    timestamp integer not null,
    primary key (input)
)";

/// What differs between two machines that fetched the same.
struct Machine {
    time: i64,
    etag: &'static str,
    reversed: bool,
    /// A commit that nobody asked for.
    other_commit: bool,
}

const MACHINES: [Machine; 2] = [
    Machine { time: 1_700_000_000, etag: "W/x", reversed: false, other_commit: false },
    Machine { time: 1_800_000_000, etag: "y", reversed: true, other_commit: true },
];

fn table(file: &Path, schema: &str, mut rows: Vec<Vec<String>>, machine: &Machine) {
    if machine.reversed {
        rows.reverse();
    }
    let database = Connection::open(file).unwrap();
    database.execute_batch(schema).unwrap();
    for row in rows {
        let places = vec!["?"; row.len() + 1].join(", ");
        let row = row.into_iter().chain([machine.time.to_string()]);
        database.execute(&format!("insert into Cache values ({places})"), params_from_iter(row)).unwrap();
    }
}

fn commit(repository: &Repository, files: &[(&str, &str)], parents: &[Oid]) -> Oid {
    let mut tree = repository.treebuilder(None).unwrap();
    for (name, text) in files {
        tree.insert(name, repository.blob(text.as_bytes()).unwrap(), 0o100_644).unwrap();
    }
    let sub = tree.write().unwrap();
    let mut tree = repository.treebuilder(None).unwrap();
    tree.insert("sub", sub, 0o040_000).unwrap();
    let tree = repository.find_tree(tree.write().unwrap()).unwrap();
    let author = Signature::new("a", "a@example.org", &Time::new(1_600_000_000, 0)).unwrap();
    let parents: Vec<_> = parents.iter().map(|id| repository.find_commit(*id).unwrap()).collect();
    let parents: Vec<_> = parents.iter().collect();
    repository.commit(None, &author, &author, "x", &tree, &parents).unwrap()
}

/// What a fetched commit is made of, and what is not to be taken with it.
struct Commits {
    fetched: Oid,
    before: Oid,
}

/// A cache as Nix leaves it, of one commit and one tarball.
fn cache(at: &Path, machine: &Machine) -> Commits {
    let nix = at.join("nix");
    fs::create_dir_all(nix.join("gitv3")).unwrap();
    let repository = Repository::init_bare(nix.join("gitv3/0abc")).unwrap();
    let before = commit(&repository, &[("old", "old")], &[]);
    let fetched = commit(&repository, &[("a", "a"), ("b", &"b".repeat(10_000))], &[before]);
    if machine.other_commit {
        commit(&repository, &[("other", "other")], &[]);
    }
    let tarballs = Repository::init_bare(nix.join("tarball-cache")).unwrap();
    let in_tarball = commit(&tarballs, &[("t", "t")], &[]);
    let tree = tarballs.find_commit(in_tarball).unwrap().tree_id();

    let row = |columns: [&str; 3]| columns.map(str::to_owned).to_vec();
    let rows = vec![
        row(["gitRevCount", &format!(r#"{{"rev":"{fetched}"}}"#), r#"{"revCount":2}"#]),
        row([
            "fetchToStore",
            &format!(r#"{{"fingerprint":"{fetched}","path":"/"}}"#),
            r#"{"storePath":"s"}"#,
        ]),
        row([
            "tarball",
            r#"{"url":"https://example.org/t.tar.gz"}"#,
            &format!(r#"{{"etag":"{}","lastModified":1,"treeHash":"{tree}"}}"#, machine.etag),
        ]),
        row(["sourcePathToHash", r#"{"fingerprint":"path:x","path":"/"}"#, &format!("{}", machine.time)]),
        row(["sourcePathToHash", r#"{"fingerprint":"y","path":"/file"}"#, &format!("{}", machine.time)]),
    ];
    table(&nix.join("fetcher-cache-v3.sqlite"), SCHEMA, rows, machine);
    let old = vec![vec![
        format!(r#"{{"rev":"{fetched}","type":"git"}}"#),
        r#"{"revCount":2}"#.to_owned(),
        "/nix/store/x".to_owned(),
        "1".to_owned(),
    ]];
    table(&nix.join("fetcher-cache-v1.sqlite"), OLD_SCHEMA, old, machine);
    Commits { fetched, before }
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(directory).unwrap().to_owned();
            if path.is_dir() {
                found.insert(relative, None);
                todo.push(path);
            } else {
                found.insert(relative, Some(fs::read(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn every_machine_writes_the_same_cache() {
    let written = MACHINES.map(|machine| {
        let dir = tempfile::tempdir().unwrap();
        cache(&dir.path().join("cache"), &machine);
        let fetched = Fetched::read(&dir.path().join("cache")).unwrap();
        assert!(fetched.is_needed());
        fetched.write(&dir.path().join("written")).unwrap();
        files(&dir.path().join("written"))
    });
    assert_eq!(written[0].keys().collect::<Vec<_>>(), written[1].keys().collect::<Vec<_>>());
    assert!(written[0] == written[1], "the contents differ");
}

#[test]
fn what_was_fetched_is_there_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("cache"), dir.path().join("written"));
    let Commits { fetched, before } = cache(&from, &MACHINES[1]);
    Fetched::read(&from).unwrap().write(&to).unwrap();

    let repository = Repository::open_bare(to.join("gitv3/0abc")).unwrap();
    let tree = repository.find_commit(fetched).unwrap().tree().unwrap();
    let file = tree.get_path(Path::new("sub/b")).unwrap().to_object(&repository).unwrap();
    assert_eq!(file.as_blob().unwrap().size(), 10_000);
    assert!(repository.find_commit(before).is_err());
    let mut objects = 0;
    repository
        .odb()
        .unwrap()
        .foreach(|_| {
            objects += 1;
            true
        })
        .unwrap();
    assert_eq!(objects, 5, "a commit, two trees, two files");

    let database = Connection::open(to.join("fetcher-cache-v3.sqlite")).unwrap();
    let mut rows = database.prepare("select domain, value, timestamp from Cache order by domain").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let rows: Vec<(String, String, i64)> = rows.map(Result::unwrap).collect();
    assert_eq!(
        rows.iter().map(|row| row.0.as_str()).collect::<Vec<_>>(),
        ["fetchToStore", "gitRevCount", "tarball"]
    );
    assert!(rows[2].1.contains(r#""etag":"""#), "{}", rows[2].1);
    assert!(rows.iter().all(|row| row.2 == TIMESTAMP));
    let database = Connection::open(to.join("fetcher-cache-v1.sqlite")).unwrap();
    let immutable =
        database.query_row("select typeof(immutable) from Cache", [], |row| row.get::<_, String>(0));
    assert_eq!(immutable.unwrap(), "integer");
}

#[test]
fn what_lies_in_the_store_needs_no_cache() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!Fetched::read(dir.path()).unwrap().is_needed());
    fs::create_dir(dir.path().join("nix")).unwrap();
    let row = ["fetchToStore", r#"{"fingerprint":"x","path":"/"}"#, "{}"].map(str::to_owned).to_vec();
    table(&dir.path().join("nix/fetcher-cache-v3.sqlite"), SCHEMA, vec![row], &MACHINES[0]);
    assert!(!Fetched::read(dir.path()).unwrap().is_needed());
}

#[test]
fn another_table_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("nix")).unwrap();
    let file = dir.path().join("nix/fetcher-cache-v9.sqlite");
    Connection::open(&file).unwrap().execute_batch("create table Cache (a text, b text)").unwrap();
    let error = Fetched::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("fetcher-cache-v9.sqlite"), "{error}");
}
