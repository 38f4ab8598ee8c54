//! What evaluation fetched besides the inputs, as Nix's own cache of fetched things has it.
//!
//! Nix finds what a lock or a hash fixes in the store, but what `fetchGit` and `fetchTree` fetch only by this
//! cache: a table, and from Nix 2.20 on the objects of Git that the table names. The cache is made anew here, of
//! what evaluation used alone, so that every machine makes the same bytes of the same project.
//!
//! The tables: `Cache(input, info, path, immutable, timestamp)` up to Nix 2.25, `Cache(domain, key, value,
//! timestamp)` from 2.26 on; the columns but the last are JSON, paths and words. Source: `libfetchers/cache.cc`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::CaptureError;
use crate::database::SAME_BYTES;

mod objects;

/// The directory of Nix's caches below `XDG_CACHE_HOME`.
const NIX: &str = "nix";

/// When everything was fetched, in seconds since 1970: in the year 2286, so that nothing is ever too old.
const TIMESTAMP: i64 = 9_999_999_999;

/// Domains of rows that say what a tree, or a file of one, is in the store. Nix finds that out without them, but
/// has to read the tree for it.
const OF_THE_STORE: [&str; 2] = ["fetchToStore", "sourcePathToHash"];

/// How the fingerprint of a tree begins that was read from a directory: the project's source.
const OF_A_DIRECTORY: &str = "path:";

/// What evaluation fetched.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    cache: PathBuf,
    tables: Vec<Table>,
}

/// Nix's table of fetched things.
#[derive(Debug)]
struct Table {
    /// Of the file: `fetcher-cache-v3.sqlite`.
    name: String,
    /// The statement that makes the table.
    schema: String,
    /// The columns of each row but for the time, ascending.
    rows: Vec<Vec<String>>,
    /// Whether something is in it that Nix would not find without it.
    is_needed: bool,
}

impl Fetched {
    /// Reads what is below `cache`, which evaluation was given as `XDG_CACHE_HOME`.
    pub(crate) fn read(cache: &Path) -> Result<Self, CaptureError> {
        let directory = cache.join(NIX);
        let mut tables = Vec::new();
        for name in names(&directory).map_err(|source| io_error(&directory, source))? {
            if name.starts_with("fetcher-cache") && name.ends_with(".sqlite") {
                let path = directory.join(&name);
                let table = Table::read(&path, name);
                tables.push(table.map_err(|source| CaptureError::FetcherCache { path, source })?);
            }
        }
        Ok(Self { cache: cache.to_owned(), tables })
    }

    /// Whether there is something that Nix would not find without a cache.
    pub(crate) fn is_needed(&self) -> bool {
        self.tables.iter().any(|table| table.is_needed)
    }

    /// Writes a cache that has all of it to the new directory `to`, in the shape of Nix's own.
    pub(crate) fn write(&self, to: &Path) -> Result<(), CaptureError> {
        fs::create_dir(to).map_err(|source| io_error(to, source))?;
        for table in &self.tables {
            let path = to.join(&table.name);
            table.write(&path).map_err(|source| CaptureError::FetcherCache { path, source })?;
        }
        let named: BTreeSet<String> = self.tables.iter().flat_map(Table::objects).collect();
        objects::write(&self.cache.join(NIX), &named, to)
    }
}

impl Table {
    fn read(path: &Path, name: String) -> rusqlite::Result<Self> {
        let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let schema = database.query_row(
            "select sql from sqlite_master where type = 'table' and name = 'Cache'",
            [],
            |row| row.get::<_, String>(0),
        )?;
        let mut select = database.prepare("select * from Cache")?;
        let columns: Vec<String> = select.column_names().map(str::to_owned).collect();
        let timed = columns.last().is_some_and(|column| column == "timestamp");
        if !timed {
            return Err(rusqlite::Error::InvalidColumnName("timestamp".to_owned()));
        }
        let read = |row: &rusqlite::Row<'_>| {
            (0..columns.len() - 1).map(|column| row.get::<_, Value>(column).map(text)).collect()
        };
        let mut rows = select.query_map([], read)?.collect::<rusqlite::Result<Vec<Vec<String>>>>()?;
        rows.retain(|row| !is_of_the_store(row) || is_whole_tree(&row[1]));
        rows.sort();
        let is_needed = rows.iter().any(|row| !is_of_the_store(row));
        Ok(Self { name, schema, rows, is_needed })
    }

    fn write(&self, path: &Path) -> rusqlite::Result<()> {
        let mut database = Connection::open(path)?;
        database.execute_batch(SAME_BYTES)?;
        let transaction = database.transaction()?;
        transaction.execute_batch(&self.schema)?;
        for row in &self.rows {
            let places = vec!["?"; row.len() + 1].join(", ");
            let columns = row.iter().map(|column| Value::Text(without_etag(column)));
            let columns = columns.chain([Value::Integer(TIMESTAMP)]);
            transaction
                .execute(&format!("insert into Cache values ({places})"), params_from_iter(columns))?;
        }
        transaction.commit()?;
        database.execute_batch("vacuum")?;
        database.close().map_err(|(_, error)| error)
    }

    /// The objects of Git that rows name: commits and trees, by their hashes.
    fn objects(&self) -> impl Iterator<Item = String> {
        let values = self.rows.iter().flatten().filter_map(|column| serde_json::from_str(column).ok());
        values.flat_map(|value: serde_json::Value| {
            ["rev", "treeHash"].into_iter().filter_map(move |name| value[name].as_str().map(str::to_owned))
        })
    }
}

fn is_of_the_store(row: &[String]) -> bool {
    row.first().is_some_and(|domain| OF_THE_STORE.contains(&domain.as_str()))
}

/// Whether a key is of a whole tree that was fetched. Which files of it are used depends on the project's source,
/// and so does all that is read from there.
fn is_whole_tree(key: &str) -> bool {
    let key: serde_json::Value = serde_json::from_str(key).unwrap_or_default();
    key["path"] == "/" && !key["fingerprint"].as_str().is_some_and(|text| text.starts_with(OF_A_DIRECTORY))
}

/// A column as text: SQLite takes it as the number that it was, where the column is one.
fn text(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Null | Value::Blob(_) => String::new(),
    }
}

/// JSON without what a server said of its own: Nix asks with it whether there is something newer.
fn without_etag(column: &str) -> String {
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(column) {
        Ok(mut fields) if fields.contains_key("etag") => {
            fields.insert("etag".to_owned(), "".into());
            serde_json::Value::Object(fields).to_string()
        }
        _ => column.to_owned(),
    }
}

/// The names in a directory, ascending; none where there is no directory.
fn names(directory: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    // What Nix makes there has names in UTF-8.
    entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
}

fn io_error(path: &Path, source: io::Error) -> CaptureError {
    CaptureError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
