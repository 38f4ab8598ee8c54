//! Compares Nix's database with the index.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use rusqlite::{Connection, OpenFlags};
use seed_format::StorePath;
use seed_format::index::PathInput;
use url::Url;

use crate::database::{CA_SCHEMA, SCHEMA};

/// How the database contradicts the index, or why that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseFault {
    /// The database could not be put where SQLite reads it.
    #[error("cannot write {}", path.display())]
    Scratch {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// SQLite cannot read the database.
    #[error("the database cannot be read")]
    Sqlite(#[from] rusqlite::Error),
    /// The tables are others than those of Nix.
    #[error("the database has other tables than a seed's")]
    Schema,
    /// A path is registered otherwise than the index says.
    #[error("{0} is registered with another hash, size or set of references, or not at all")]
    Path(String),
    /// A path is registered that the index does not have.
    #[error("{0} is registered, but not in the index")]
    Unknown(String),
}

/// The paths that the SQLite file `database`, given as its bytes, registers of those in `paths`.
pub fn registered(
    database: &[u8],
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, DatabaseFault> {
    let connection = open(database)?;
    let mut known = connection.prepare("select 1 from ValidPaths where path = ?")?;
    let mut registered = BTreeSet::new();
    for path in paths {
        if known.exists([path.to_string()])? {
            registered.insert(path.clone());
        }
    }
    Ok(registered)
}

/// The outputs whose places the SQLite file `database`, given as its bytes, knows of those in `outputs`: by
/// their derivations' hashes and their names.
pub fn realised(
    database: &[u8],
    outputs: &BTreeSet<(String, String)>,
) -> Result<BTreeSet<(String, String)>, DatabaseFault> {
    let connection = open(database)?;
    let has_tables = "select 1 from sqlite_master where name = 'Realisations'";
    if !connection.prepare(has_tables)?.exists([])? {
        return Ok(BTreeSet::new());
    }
    let mut known = connection.prepare("select 1 from Realisations where drvPath = ? and outputName = ?")?;
    let mut realised = BTreeSet::new();
    for (derivation, name) in outputs {
        if known.exists([derivation, name])? {
            realised.insert((derivation.clone(), name.clone()));
        }
    }
    Ok(realised)
}

/// Opens the file for reading. It has no name any more when this returns, so nobody has to remove it.
fn open(database: &[u8]) -> Result<Connection, DatabaseFault> {
    let file = Scratch::with(database)?;
    // Immutable: SQLite would else make files beside it, since a database of Nix has a write-ahead log.
    let mut uri = Url::from_file_path(&file.0).map_err(|()| DatabaseFault::Scratch {
        path: file.0.clone(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "the temporary directory has no absolute path"),
    })?;
    uri.set_query(Some("immutable=1"));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri.as_str(), flags)?;
    // The file may be anybody's: run no code from its schema, and trust no cell of its pages.
    connection.execute_batch("pragma trusted_schema = off; pragma cell_size_check = on;")?;
    check_schema(&connection)?;
    Ok(connection)
}

/// Checks that the SQLite file `database`, given as its bytes, registers `paths`, and nothing else.
pub fn check(database: &[u8], paths: &[PathInput]) -> Result<(), DatabaseFault> {
    let connection = open(database)?;
    let mut registered: BTreeSet<(String, String, i64)> = BTreeSet::new();
    let mut statement = connection.prepare("select path, hash, narSize from ValidPaths")?;
    for row in statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))? {
        registered.insert(row?);
        if registered.len() > paths.len() {
            break;
        }
    }
    let mut references: BTreeSet<(String, String)> = BTreeSet::new();
    let expected_references: usize = paths.iter().map(|path| path.references.len()).sum();
    let mut statement = connection.prepare(
        "select a.path, b.path from Refs join ValidPaths a on referrer = a.id join ValidPaths b on reference = b.id",
    )?;
    for row in statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
        references.insert(row?);
        if references.len() > expected_references {
            break;
        }
    }

    for path in paths {
        let name = path.path.to_string();
        let size = i64::try_from(path.nar_size).unwrap_or(i64::MAX);
        let known = registered.remove(&(name.clone(), path.nar_hash.to_string(), size));
        let all = path.references.iter().all(|to| references.remove(&(name.clone(), to.to_string())));
        if !known || !all {
            return Err(DatabaseFault::Path(name));
        }
    }
    match (registered.pop_first(), references.pop_first()) {
        (Some((path, ..)), _) => Err(DatabaseFault::Unknown(path)),
        (None, Some((path, _))) => Err(DatabaseFault::Path(path)),
        (None, None) => Ok(()),
    }
}

/// Checks that the tables are those that packing makes. A view or a generated column of the same name would
/// make the queries run what the file's maker likes, for as long as they like.
fn check_schema(connection: &Connection) -> Result<(), DatabaseFault> {
    let found = schema(connection)?;
    let expected = Connection::open_in_memory()?;
    expected.execute_batch(SCHEMA)?;
    if found == schema(&expected)? {
        return Ok(());
    }
    expected.execute_batch(CA_SCHEMA)?;
    if found == schema(&expected)? { Ok(()) } else { Err(DatabaseFault::Schema) }
}

/// Kind, name and text of all that a database defines.
fn schema(connection: &Connection) -> Result<BTreeSet<(String, String, Option<String>)>, rusqlite::Error> {
    let mut statement = connection.prepare("select type, name, sql from sqlite_master limit 100")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

/// A file that only this process knows, and that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn with(bytes: &[u8]) -> Result<Self, DatabaseFault> {
        let name = format!(".nix-seed-database-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let scratch = Self(std::env::temp_dir().join(name));
        let failed = |source| DatabaseFault::Scratch { path: scratch.0.clone(), source };
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).open(&scratch.0).map_err(failed)?;
        io::Write::write_all(&mut file, bytes).map_err(failed)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in a directory for such files: whoever clears that takes it too.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use seed_format::Digest;

    use super::*;
    use crate::closure::{Closure, PathInfo};

    fn sample() -> (Vec<u8>, Vec<PathInput>) {
        let path = |n: u8| {
            StorePath::from_base_name(&format!("{}-x", char::from(b'0' + n).to_string().repeat(32))).unwrap()
        };
        let mut closure = Closure::default();
        for n in 0..9 {
            let info = PathInfo {
                path: path(n),
                nar_hash: Digest::of(&[n]),
                nar_size: u64::from(n),
                references: (0..=n).map(path).collect(),
                ca: None,
            };
            closure.paths.insert(path(n), info);
        }
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("db");
        crate::database::write(&closure, &file).unwrap();
        let paths = closure.paths.values().map(|info| PathInput {
            path: info.path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.iter().cloned().collect(),
        });
        (fs::read(file).unwrap(), paths.collect())
    }

    #[test]
    fn tells_every_difference() {
        let (database, paths) = sample();
        check(&database, &paths).unwrap();
        let other = StorePath::from_base_name("00bgd045z0d4icpbc2yyz4gx48ak44la-other").unwrap();
        let asked: BTreeSet<_> = [paths[0].path.clone(), other].into();
        assert_eq!(registered(&database, &asked).unwrap(), [paths[0].path.clone()].into());
        type Change = fn(&mut Vec<PathInput>);
        let changes: [Change; 5] = [
            |paths| drop(paths.pop()),
            |paths| paths[3].nar_size += 1,
            |paths| paths[3].nar_hash = Digest::of(b"other"),
            |paths| drop(paths[3].references.pop()),
            |paths| {
                let other = paths[8].path.clone();
                paths[3].references.push(other);
            },
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut paths = paths.clone();
            change(&mut paths);
            assert!(check(&database, &paths).is_err(), "change {n}");
        }
    }

    #[test]
    fn a_view_that_never_ends_is_not_asked() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("db");
        let endless = "create view ValidPaths as with recursive n(x) as (select 1 union all select x from n)
                       select x as path, x as hash, x as narSize from n where x > 1; create table Refs (a);";
        Connection::open(&file).unwrap().execute_batch(endless).unwrap();
        assert!(matches!(check(&fs::read(file).unwrap(), &[]), Err(DatabaseFault::Schema)));
    }

    #[test]
    fn what_is_no_database_is_an_error() {
        let (database, paths) = sample();
        for len in [0, 1, 15, 16, 100, 4096, database.len() - 4096] {
            assert!(check(&database[..len], &paths).is_err(), "cut at {len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_damaged_database_is_an_answer_and_no_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let (mut database, paths) = sample();
            for (at, byte) in changes {
                let len = database.len();
                database[at.index(len)] = byte;
            }
            let _ = check(&database, &paths);
        }
    }
}
