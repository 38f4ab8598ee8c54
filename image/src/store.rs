//! A local Nix store, read by its database: what is valid in it, and what Nix knows of each path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use seed_format::store_path::decode_base32;
use seed_format::{Digest, StorePath};

use crate::closure::{PathInfo, Realisation};

/// The version of the database that is read. It has been this one since Nix 2.0.
const SCHEMA_VERSION: u32 = 10;

/// Why a store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no store.
    #[error("there is no Nix store in {}: {} is missing", root.display(), missing.display())]
    Missing {
        /// Where it was looked for.
        root: PathBuf,
        /// What is not there.
        missing: PathBuf,
    },
    /// Its database is of a version that is not known.
    #[error(
        "the database of the Nix store in {} has schema {found:?}, and {SCHEMA_VERSION} is needed; \
         `nix-store --verify` of a current Nix upgrades an older one",
        root.display()
    )]
    Schema {
        /// The store.
        root: PathBuf,
        /// What its `schema` file says.
        found: String,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The database could not be read.
    #[error("cannot read the database of the Nix store in {}", root.display())]
    Sqlite {
        /// The store.
        root: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The database says something that makes no sense.
    #[error("the database of the Nix store in {} says {value:?} where {expected} should be", root.display())]
    Malformed {
        /// The store.
        root: PathBuf,
        /// What it says.
        value: String,
        /// What it should say.
        expected: &'static str,
    },
    /// A path is not valid in the store.
    #[error("{path} is not valid in the Nix store in {}", root.display())]
    Invalid {
        /// The store.
        root: PathBuf,
        /// The path.
        path: StorePath,
    },
}

/// A local store, open for reading.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    database: Connection,
}

impl Store {
    /// Opens the store below `root`: `/` for the machine's own, or the root of a chroot store.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let state = root.join("nix/var/nix/db");
        let missing = |missing: PathBuf| StoreError::Missing { root: root.to_owned(), missing };
        let schema = state.join("schema");
        let found = match fs::read_to_string(&schema) {
            Ok(found) => found.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(schema)),
            Err(source) => return Err(StoreError::Io { path: schema, source }),
        };
        if found.parse() != Ok(SCHEMA_VERSION) {
            return Err(StoreError::Schema {
                root: root.to_owned(),
                found: found.chars().take(40).collect(),
            });
        }
        let file = state.join("db.sqlite");
        if !file.is_file() {
            return Err(missing(file));
        }
        let database = open_database(&file);
        let database = database.map_err(|source| StoreError::Sqlite { root: root.to_owned(), source })?;
        Ok(Self { root: root.to_owned(), database })
    }

    /// The directory of the paths themselves.
    pub fn directory(&self) -> PathBuf {
        self.root.join("nix/store")
    }

    /// Every valid path.
    pub fn valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            self.database.prepare("select path from ValidPaths")?.query_map([], |row| row.get(0))?.collect()
        };
        read().map_err(|source| self.failed(source))?.into_iter().map(|path| self.path(path)).collect()
    }

    /// Whether `path` is valid.
    pub fn has(&self, path: &StorePath) -> Result<bool, StoreError> {
        let exists = || -> rusqlite::Result<bool> {
            self.database.prepare("select 1 from ValidPaths where path = ?")?.exists([path.to_string()])
        };
        exists().map_err(|source| self.failed(source))
    }

    /// The valid paths whose NAR has this hash.
    pub fn with_nar_hash(&self, hash: &Digest) -> Result<BTreeSet<StorePath>, StoreError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut query = self.database.prepare("select path from ValidPaths where hash = ?")?;
            query.query_map([hash.to_string()], |row| row.get(0))?.collect()
        };
        read().map_err(|source| self.failed(source))?.into_iter().map(|path| self.path(path)).collect()
    }

    /// The paths `roots` and all that they refer to.
    pub fn closure(
        &self,
        roots: impl IntoIterator<Item = StorePath>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, StoreError> {
        let mut todo: Vec<_> = roots.into_iter().collect();
        let mut closure = BTreeMap::new();
        while let Some(path) = todo.pop() {
            if closure.contains_key(&path) {
                continue;
            }
            let info = self.path_info(&path)?;
            todo.extend(info.references.iter().filter(|path| !closure.contains_key(*path)).cloned());
            closure.insert(path, info);
        }
        Ok(closure)
    }

    /// What Nix knows of `path`.
    pub fn path_info(&self, path: &StorePath) -> Result<PathInfo, StoreError> {
        type Row = (i64, String, Option<i64>, Option<String>);
        let query = || -> rusqlite::Result<Option<Row>> {
            self.database
                .prepare("select id, hash, narSize, ca from ValidPaths where path = ?")?
                .query_row([path.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                .optional()
        };
        let (id, hash, nar_size, ca) = query()
            .map_err(|source| self.failed(source))?
            .ok_or_else(|| StoreError::Invalid { root: self.root.clone(), path: path.clone() })?;
        let references = || -> rusqlite::Result<Vec<String>> {
            self.database
                .prepare("select path from Refs join ValidPaths on reference = id where referrer = ?")?
                .query_map([id], |row| row.get(0))?
                .collect()
        };
        let references = references().map_err(|source| self.failed(source))?;
        let nar_size = nar_size.and_then(|size| u64::try_from(size).ok());
        Ok(PathInfo {
            path: path.clone(),
            nar_hash: parse_hash(&hash).ok_or_else(|| self.malformed(hash, "a SHA-256"))?,
            nar_size: nar_size.ok_or_else(|| self.malformed(path.to_string(), "a path with a size"))?,
            references: references.into_iter().map(|path| self.path(path)).collect::<Result<_, _>>()?,
            ca: ca.filter(|ca| !ca.is_empty()),
        })
    }

    /// The known outputs that are among `paths`: of content-addressed derivations, and those of `noted`, which
    /// are made of such. Where its feature is on, Nix notes the outputs of other derivations, too; nobody asks
    /// for those, and they are left out.
    pub fn realisations(
        &self,
        paths: &BTreeMap<StorePath, PathInfo>,
        noted: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<Realisation>, StoreError> {
        let has_tables = || -> rusqlite::Result<bool> {
            let count: i64 = self.database.query_row(
                "select count(*) from sqlite_master where type = 'table' and name in ('Realisations', 'RealisationsRefs')",
                [],
                |row| row.get(0),
            )?;
            Ok(count == 2)
        };
        if !has_tables().map_err(|source| self.failed(source))? {
            return Ok(BTreeSet::new());
        }
        type Row = (i64, String, String, String);
        let rows = || -> rusqlite::Result<Vec<Row>> {
            self.database
                .prepare(
                    "select r.id, r.drvPath, r.outputName, p.path
                     from Realisations r join ValidPaths p on r.outputPath = p.id",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect()
        };
        let mut known = BTreeMap::new();
        for (id, derivation, output, path) in rows().map_err(|source| self.failed(source))? {
            let path = self.path(path)?;
            if paths.get(&path).is_some_and(|info| info.ca.is_some() || noted.contains(&path)) {
                known.insert(id, Realisation { derivation, output, path, references: BTreeSet::new() });
            }
        }
        let references = |id: i64| -> rusqlite::Result<Vec<i64>> {
            self.database
                .prepare("select realisationReference from RealisationsRefs where referrer = ?")?
                .query_map(params![id], |row| row.get(0))?
                .collect()
        };
        let mut realisations = BTreeSet::new();
        for (id, realisation) in &known {
            let references = references(*id).map_err(|source| self.failed(source))?;
            let references = references.iter().filter_map(|id| known.get(id));
            let mut realisation = realisation.clone();
            realisation.references =
                references.map(|of| (of.derivation.clone(), of.output.clone())).collect();
            realisations.insert(realisation);
        }
        Ok(realisations)
    }

    fn path(&self, text: String) -> Result<StorePath, StoreError> {
        text.parse().map_err(|_| self.malformed(text, "a store path"))
    }

    fn malformed(&self, value: String, expected: &'static str) -> StoreError {
        StoreError::Malformed { root: self.root.clone(), value: value.chars().take(256).collect(), expected }
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { root: self.root.clone(), source }
    }
}

/// Opens the database without changing it. Where the directory may not be written, SQLite cannot share it
/// with a writer; it is then read as a file that does not change, if no write is under way.
fn open_database(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(file, flags)?;
    database.busy_timeout(std::time::Duration::from_secs(30))?;
    let probe = "select count(*) from (select 1 from ValidPaths limit 1)";
    match database.query_row(probe, [], |row| row.get::<_, i64>(0)) {
        Ok(_) => Ok(database),
        Err(error) => {
            let log = file.with_extension("sqlite-wal");
            let unwritten = fs::metadata(&log).is_ok_and(|log| log.len() > 0);
            let code = error.sqlite_error_code();
            let not_shared =
                matches!(code, Some(rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::ReadOnly));
            if unwritten || !not_shared {
                return Err(error);
            }
            let mut name = String::from("file:");
            for byte in file.as_os_str().as_encoded_bytes() {
                name.push_str(&format!("%{byte:02x}"));
            }
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            let database = Connection::open_with_flags(format!("{name}?immutable=1"), flags)?;
            database.query_row(probe, [], |row| row.get::<_, i64>(0))?;
            Ok(database)
        }
    }
}

/// `sha256:` and 64 hexadecimal or 52 base-32 digits.
fn parse_hash(text: &str) -> Option<Digest> {
    if let Ok(digest) = text.parse() {
        return Some(digest);
    }
    let bytes = decode_base32(text.strip_prefix("sha256:")?, 32)?;
    Some(Digest::from_bytes(bytes.try_into().ok()?))
}
