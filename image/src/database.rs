//! Nix's database, ready made: what makes the packed paths *valid* without reading any of them.
//!
//! Source of the schema: `libstore/schema.sql` and `ca-specific-schema.sql` of Nix; version 10 has not
//! changed from Nix 2.0 to now. The file depends on the closure and on the SQLite library that is built into this
//! program, and on nothing else: paths are inserted in ascending order, times are 1, and what machines
//! disagree about (signatures, derivers, who built a path) is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Statement, params};
use seed_format::StorePath;

use crate::closure::{Closure, ClosureError, PathInfo};
use crate::derivation::{DerivationError, Output, outputs};

/// The version that `/nix/var/nix/db/schema` states.
pub const SCHEMA_VERSION: &str = "10";

/// The version that `/nix/var/nix/db/ca-schema` states, where the closure has realisations: the oldest
/// that Nix 2.8 and newer read, and upgrade when they must.
pub const CA_SCHEMA_VERSION: &str = "3";

/// When every path was registered, in seconds since 1970. Nix shows it, and asks no more of it.
const REGISTRATION_TIME: i64 = 1;

/// Settings of a database that has the same bytes wherever it is written. A file is made anew after a crash,
/// and nobody else has it open.
pub(crate) const SAME_BYTES: &str = "pragma page_size = 4096; pragma encoding = 'UTF-8';
    pragma auto_vacuum = none; pragma journal_mode = off; pragma synchronous = off;";

/// The tables, with the text that Nix itself creates them by.
pub(crate) const SCHEMA: &str = include_str!("database/schema.sql");

/// The tables of content-addressed derivations.
pub(crate) const CA_SCHEMA: &str = include_str!("database/ca-schema.sql");

/// Why a database cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The closure is not one.
    #[error("the database would not be consistent")]
    Closure(#[from] ClosureError),
    /// SQLite failed.
    #[error("cannot write the database {}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A `.drv` file is not a derivation.
    #[error("{path} is not a derivation")]
    Derivation {
        /// The path.
        path: StorePath,
        /// What is wrong with it.
        source: DerivationError,
    },
    /// A realisation depends on one that is not there.
    #[error("the output {output} of {derivation} depends on the output {of} of {on}, which is not known")]
    Realisation {
        /// The derivation's hash.
        derivation: String,
        /// The output's name.
        output: String,
        /// The hash of the derivation that is missing.
        on: String,
        /// The output that is missing.
        of: String,
    },
}

/// Writes the database of `closure` to the file `to`, which must not be there.
///
/// Reads the `.drv` files of the closure, for the outputs that they name.
pub fn write(closure: &Closure, to: &Path) -> Result<(), DatabaseError> {
    closure.check()?;
    let derivations = derivation_outputs(closure)?;
    let failed = |source| DatabaseError::Sqlite { path: to.to_owned(), source };
    let io_failed = |source| DatabaseError::Io { path: to.to_owned(), source };
    fs::OpenOptions::new().write(true).create_new(true).open(to).map_err(io_failed)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut database = Connection::open_with_flags(to, flags).map_err(failed)?;
    database.execute_batch(SAME_BYTES).map_err(failed)?;
    database.execute_batch("pragma foreign_keys = on").map_err(failed)?;
    let transaction = database.transaction().map_err(failed)?;
    transaction.execute_batch(SCHEMA).map_err(failed)?;
    let ids = insert_paths(&transaction, closure).map_err(failed)?;
    insert_outputs(&transaction, &derivations, &ids).map_err(failed)?;
    if !closure.realisations.is_empty() {
        transaction.execute_batch(CA_SCHEMA).map_err(failed)?;
        let ids = insert_realisations(&transaction, closure, &ids).map_err(failed)?;
        for (referrer, on, of) in realisation_references(closure, &ids)? {
            transaction
                .execute("insert into RealisationsRefs values (?, ?)", params![referrer, ids[&(on, of)]])
                .map_err(failed)?;
        }
    }
    transaction.commit().map_err(failed)?;
    database.execute_batch("vacuum").map_err(failed)?;
    database.close().map_err(|(_, source)| failed(source))
}

/// Notes a path in the database `at` of a store in which it has just been put. What it refers to besides
/// itself is not noted.
pub(crate) fn register(info: &PathInfo, at: &Path) -> Result<(), DatabaseError> {
    let insert = || -> rusqlite::Result<()> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut database = Connection::open_with_flags(at, flags)?;
        let transaction = database.transaction()?;
        let id = insert_path(&mut transaction.prepare(INSERT_PATH)?, info)?;
        if info.references.contains(&info.path) {
            transaction.execute("insert into Refs (referrer, reference) values (?, ?)", [id, id])?;
        }
        transaction.commit()
    };
    insert().map_err(|source| DatabaseError::Sqlite { path: at.to_owned(), source })
}

type Ids<'a> = BTreeMap<&'a StorePath, i64>;
type RealisationIds<'a> = BTreeMap<(&'a str, &'a str), i64>;

fn insert_paths<'a>(database: &Connection, closure: &'a Closure) -> rusqlite::Result<Ids<'a>> {
    let mut insert = database.prepare(INSERT_PATH)?;
    let mut ids = Ids::new();
    for info in closure.paths.values() {
        ids.insert(&info.path, insert_path(&mut insert, info)?);
    }
    let mut insert = database.prepare("insert into Refs (referrer, reference) values (?, ?)")?;
    for info in closure.paths.values() {
        for reference in &info.references {
            insert.execute([ids[&info.path], ids[reference]])?;
        }
    }
    Ok(ids)
}

const INSERT_PATH: &str =
    "insert into ValidPaths (path, hash, registrationTime, narSize, ca) values (?, ?, ?, ?, ?)";

/// Gives the row's number.
fn insert_path(insert: &mut Statement<'_>, info: &PathInfo) -> rusqlite::Result<i64> {
    let nar_size = i64::try_from(info.nar_size).unwrap_or(i64::MAX);
    let hash = info.nar_hash.to_string();
    insert.insert(params![info.path.to_string(), hash, REGISTRATION_TIME, nar_size, info.ca])
}

fn insert_outputs(
    database: &Connection,
    derivations: &BTreeMap<&StorePath, BTreeMap<String, Output>>,
    ids: &Ids<'_>,
) -> rusqlite::Result<()> {
    let mut insert = database.prepare("insert into DerivationOutputs (drv, id, path) values (?, ?, ?)")?;
    for (derivation, outputs) in derivations {
        // A floating output of a content-addressed derivation has no place yet.
        for (name, path) in outputs.iter().filter_map(|(name, output)| Some((name, output.path.as_ref()?))) {
            insert.execute(params![ids[derivation], name, path.to_string()])?;
        }
    }
    Ok(())
}

fn insert_realisations<'a>(
    database: &Connection,
    closure: &'a Closure,
    paths: &Ids<'_>,
) -> rusqlite::Result<RealisationIds<'a>> {
    let mut insert = database.prepare(
        "insert into Realisations (drvPath, outputName, outputPath, signatures) values (?, ?, ?, '')",
    )?;
    let mut ids = RealisationIds::new();
    for realisation in &closure.realisations {
        insert.execute(params![realisation.derivation, realisation.output, paths[&realisation.path]])?;
        ids.insert((&realisation.derivation, &realisation.output), database.last_insert_rowid());
    }
    Ok(ids)
}

/// Of each realisation, its row and the derivation and output of each that it depends on.
fn realisation_references<'a>(
    closure: &'a Closure,
    ids: &RealisationIds<'_>,
) -> Result<Vec<(i64, &'a str, &'a str)>, DatabaseError> {
    let mut references = Vec::new();
    for realisation in &closure.realisations {
        for (on, of) in &realisation.references {
            if !ids.contains_key(&(on.as_str(), of.as_str())) {
                return Err(DatabaseError::Realisation {
                    derivation: realisation.derivation.clone(),
                    output: realisation.output.clone(),
                    on: on.clone(),
                    of: of.clone(),
                });
            }
            let referrer = ids[&(realisation.derivation.as_str(), realisation.output.as_str())];
            references.push((referrer, on.as_str(), of.as_str()));
        }
    }
    Ok(references)
}

/// The outputs that each `.drv` file of the closure names.
fn derivation_outputs(
    closure: &Closure,
) -> Result<BTreeMap<&StorePath, BTreeMap<String, Output>>, DatabaseError> {
    let mut derivations = BTreeMap::new();
    for path in closure.paths.keys().filter(|path| path.is_derivation()) {
        let file = closure.real_path(path);
        let failed = |source| DatabaseError::Io { path: file.clone(), source };
        // A directory may be called so, too.
        if !fs::symlink_metadata(&file).map_err(failed)?.is_file() {
            continue;
        }
        let text = fs::read(&file).map_err(failed)?;
        let outputs =
            outputs(&text).map_err(|source| DatabaseError::Derivation { path: path.clone(), source })?;
        derivations.insert(path, outputs);
    }
    Ok(derivations)
}

#[cfg(test)]
mod tests;
