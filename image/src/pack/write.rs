//! What goes into each kind of layer.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write as _};
use std::path::Path;

use seed_format::layer::{self, Layer, LayerError, LayerWriter};
use seed_format::{Digest, DigestWriter, Entry, StorePath, nar};

use super::PackError;
use super::scratch::Scratch;
use crate::closure::Closure;
use crate::database::{CA_SCHEMA_VERSION, SCHEMA_VERSION};
use crate::manifest::annotation;
use crate::progress::Progress;
use crate::rootfs::RootEntry;
use crate::seed::{INDEX_PATH, IndexPosition};
use crate::tree::{self, Visitor};

/// Writes a layer to a file.
pub(super) type Writer = LayerWriter<BufWriter<File>>;

/// How the index layer is compressed: in frames that a mount can use one by one, as they arrive.
pub(super) const INDEX_COMPRESSION: layer::Options = layer::Options { level: 6, chunk_size: 128 << 10 };

/// Mode bits of directories around the store, and of files that their owner writes.
const OPEN_DIRECTORY: u16 = 0o755;
const OPEN_FILE: u16 = 0o644;

/// Bytes of a blob that are written at once.
const BUFFER: usize = 256 << 10;

/// Writes a layer with `entries` to `file`, which is made.
pub(super) fn layer(
    file: &Scratch,
    compression: layer::Options,
    entries: impl FnOnce(&mut Writer) -> Result<(), PackError>,
) -> Result<Layer, PackError> {
    let out = BufWriter::with_capacity(BUFFER, file.create()?);
    let mut writer = LayerWriter::new(out, compression)?;
    entries(&mut writer)?;
    let (mut out, layer) = writer.finish()?;
    out.flush().map_err(|source| PackError::Scratch { path: file.path().to_owned(), source })?;
    Ok(layer)
}

/// Entries whose contents are in memory.
pub(super) fn entries(out: &mut Writer, entries: &[RootEntry]) -> Result<(), PackError> {
    for RootEntry { entry, contents } in entries {
        out.file(entry.clone(), contents.as_slice())?;
    }
    Ok(())
}

/// Nix's database, which lies in `file`, and the files that state its version.
pub(super) fn database_entries(closure: &Closure, file: &Path) -> Result<Vec<RootEntry>, PackError> {
    let database = fs::read(file).map_err(|source| PackError::Scratch { path: file.to_owned(), source })?;
    let directory = |path: &str| RootEntry {
        entry: Entry::directory(path).with_mode(OPEN_DIRECTORY),
        contents: Vec::new(),
    };
    let file = |name: &str, contents: Vec<u8>| RootEntry {
        entry: Entry::regular(format!("nix/var/nix/db/{name}"), contents.len() as u64, false)
            .with_mode(OPEN_FILE),
        contents,
    };
    let mut entries: Vec<RootEntry> =
        ["nix", "nix/var", "nix/var/nix", "nix/var/nix/db"].map(directory).into();
    if !closure.realisations.is_empty() {
        entries.push(file("ca-schema", CA_SCHEMA_VERSION.into()));
    }
    entries.push(file("db.sqlite", database));
    entries.push(file("schema", SCHEMA_VERSION.into()));
    Ok(entries)
}

/// The index, and the directories that lead to it.
pub(super) fn index_entries(out: &mut Writer, index: &[u8]) -> Result<(), PackError> {
    for (at, _) in INDEX_PATH.match_indices('/') {
        out.entry(Entry::directory(&INDEX_PATH[..at]).with_mode(OPEN_DIRECTORY))?;
    }
    out.file(Entry::regular(INDEX_PATH, index.len() as u64, false), index)?;
    Ok(())
}

/// Key and value of the annotation that says where in its layer the index lies.
pub(super) fn index_annotation(layer: &Layer) -> (String, String) {
    let position = layer.entries.last().and_then(|entry| IndexPosition::of(&entry.chunks));
    let position = position.expect("the index has a superblock at least, and is the last entry");
    (annotation::SEED_INDEX.to_owned(), position.to_string())
}

/// Store paths, each checked against its registered NAR hash while it is read.
pub(super) fn store_paths(
    out: &mut Writer,
    closure: &Closure,
    paths: &[StorePath],
    progress: &dyn Progress,
) -> Result<(), PackError> {
    out.entry(Entry::directory("nix").with_mode(OPEN_DIRECTORY))?;
    out.entry(Entry::directory("nix/store").with_mode(OPEN_DIRECTORY))?;
    for path in paths {
        let info = &closure.paths[path];
        let mut visitor = PathVisitor {
            nar: nar::Writer::new(DigestWriter::new(io::sink())).map_err(LayerError::Write)?,
            path: format!("nix/store/{}", path.base_name()).into_bytes(),
            ends: Vec::new(),
            out,
            progress,
        };
        tree::walk(&closure.real_path(path), &mut visitor)?;
        let (_, actual, _) = visitor.nar.finish().map_err(LayerError::Write)?.finish();
        check_hash(path, info.nar_hash, actual)?;
    }
    Ok(())
}

fn check_hash(path: &StorePath, expected: Digest, actual: Digest) -> Result<(), PackError> {
    if expected == actual {
        return Ok(());
    }
    Err(PackError::NarHash { path: path.clone(), expected, actual })
}

/// Writes one store path to a layer and to a NAR at the same time.
struct PathVisitor<'a> {
    nar: nar::Writer<DigestWriter<io::Sink>>,
    /// Path in the image of the directory that was entered last; of the store path before that.
    path: Vec<u8>,
    /// How long `path` was before each directory was entered.
    ends: Vec<usize>,
    out: &'a mut Writer,
    progress: &'a dyn Progress,
}

impl PathVisitor<'_> {
    /// Names an entry in the NAR; the answer is its path in the image.
    fn begin(&mut self, name: &[u8]) -> Result<Vec<u8>, PackError> {
        if name.is_empty() {
            return Ok(self.path.clone());
        }
        self.nar.entry(name).map_err(|source| self.refused(name, source))?;
        Ok([&self.path, &b"/"[..], name].concat())
    }

    /// The NAR goes nowhere, so its only errors are names and targets that no store path has.
    fn refused(&self, name: &[u8], source: io::Error) -> PackError {
        let path = [&self.path, &b"/"[..], name].concat();
        LayerError::Source { path, source }.into()
    }
}

impl Visitor for PathVisitor<'_> {
    type Error = PackError;

    fn enter(&mut self, name: &[u8]) -> Result<(), PackError> {
        let path = self.begin(name)?;
        self.nar.directory().map_err(|source| self.refused(name, source))?;
        self.ends.push(self.path.len());
        self.path.clone_from(&path);
        Ok(self.out.entry(Entry::directory(path))?)
    }

    fn leave(&mut self) -> Result<(), PackError> {
        self.nar.end_directory().map_err(|source| self.refused(b"", source))?;
        self.path.truncate(self.ends.pop().unwrap_or(0));
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), PackError> {
        let path = self.begin(name)?;
        self.nar.symlink(target).map_err(|source| self.refused(name, source))?;
        Ok(self.out.entry(Entry::symlink(path, target))?)
    }

    fn file(
        &mut self,
        name: &[u8],
        size: u64,
        executable: bool,
        contents: &mut dyn Read,
    ) -> Result<(), PackError> {
        let path = self.begin(name)?;
        let failed = |path: &[u8], source| LayerError::Source { path: path.to_vec(), source };
        let entry = Entry::regular(path.clone(), size, executable);
        let mut contents = self.nar.regular(size, executable, contents).map_err(|e| failed(&path, e))?;
        self.out.file(entry, &mut contents)?;
        contents.finish().map_err(|error| failed(&path, error))?;
        self.progress.advance(size);
        Ok(())
    }
}
