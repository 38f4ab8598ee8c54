//! The workers: each takes the largest layer that nobody has taken yet.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use seed_format::StorePath;
use seed_format::layer::Layer;

use super::record::{Key, Records};
use super::scratch::Scratch;
use super::{LayerReport, Options, PackError, Role, write};
use crate::closure::Closure;
use crate::database;
use crate::manifest::{Descriptor, media_type};
use crate::progress::Progress;
use crate::rootfs::RootEntry;
use crate::transport::{FileContent, Transport};

/// A layer to make.
#[derive(Debug)]
pub(super) enum Job {
    /// The root file system.
    Root(Vec<RootEntry>),
    /// Nix's database.
    Database,
    /// Store paths, ascending.
    Store(Vec<StorePath>),
}

/// A layer that is where it belongs.
#[derive(Debug)]
pub(super) struct Made {
    role: Role,
    paths: Vec<StorePath>,
    pub(super) layer: Layer,
    reused: bool,
}

impl Made {
    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn report(self) -> LayerReport {
        LayerReport {
            role: self.role,
            descriptor: descriptor(&self.layer),
            uncompressed_size: self.layer.uncompressed_size,
            paths: self.paths,
            reused: self.reused,
        }
    }
}

fn descriptor(layer: &Layer) -> Descriptor {
    let mut descriptor = Descriptor::new(media_type::LAYER_ZSTD, layer.digest, layer.size);
    descriptor.annotations.clone_from(&layer.annotations);
    descriptor
}

/// What all workers share.
#[derive(Clone, Copy)]
pub(super) struct Workshop<'a> {
    pub(super) closure: &'a Closure,
    pub(super) options: &'a Options,
    pub(super) to: &'a dyn Transport,
    pub(super) progress: &'a dyn Progress,
}

impl Workshop<'_> {
    /// Makes all layers, in the order of `jobs`. After the first error no more are begun.
    pub(super) fn make_all(self, jobs: &[Job]) -> Result<Vec<Made>, PackError> {
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_by_key(|job| std::cmp::Reverse(self.size(&jobs[*job])));
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<PackError>> = Mutex::new(None);
        let made: Vec<OnceLock<Made>> = jobs.iter().map(|_| OnceLock::new()).collect();
        thread::scope(|scope| {
            for _ in 0..self.workers(jobs.len()) {
                scope.spawn(|| {
                    while let Some(&job) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match self.make(&jobs[job]) {
                            Ok(layer) => drop(made[job].set(layer)),
                            Err(error) => {
                                next.store(order.len(), Ordering::Relaxed);
                                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let taken = made.into_iter().map(|made| made.into_inner().expect("every job was done or failed"));
        Ok(taken.collect())
    }

    fn workers(self, jobs: usize) -> usize {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let workers = if self.options.workers == 0 { cores() } else { self.options.workers };
        workers.min(jobs)
    }

    /// Roughly how much work a job is, in bytes.
    fn size(self, job: &Job) -> u64 {
        match job {
            Job::Root(_) => 0,
            Job::Database => 300 * self.closure.paths.len() as u64,
            Job::Store(paths) => paths.iter().map(|path| self.closure.paths[path].nar_size).sum(),
        }
    }

    fn make(self, job: &Job) -> Result<Made, PackError> {
        match job {
            Job::Root(entries) => {
                let key = Key::of_entries(self.options.compression, entries);
                let layer = |out: &mut _| write::entries(out, entries);
                self.reuse_or_make(Role::Root, &key, Vec::new(), layer)
            }
            Job::Database => {
                let file = Scratch::in_directory(&self.options.scratch);
                if self.options.unregistered.is_empty() {
                    database::write(self.closure, file.path())?;
                } else {
                    database::write(&self.closure.without(&self.options.unregistered), file.path())?;
                }
                let entries = write::database_entries(self.closure, file.path())?;
                let key = Key::of_entries(self.options.compression, &entries);
                let layer = |out: &mut _| write::entries(out, &entries);
                self.reuse_or_make(Role::Database, &key, Vec::new(), layer)
            }
            Job::Store(paths) => {
                let hashes = paths.iter().map(|path| (path, &self.closure.paths[path].nar_hash));
                let key = Key::of_paths(self.options.compression, hashes);
                let layer = |out: &mut _| write::store_paths(out, self.closure, paths, self.progress);
                self.reuse_or_make(Role::Store, &key, paths.clone(), layer)
            }
        }
    }

    /// Makes the layer that holds the index.
    pub(super) fn make_index(self, index: &[u8]) -> Result<Made, PackError> {
        let (file, mut layer) =
            self.write(write::INDEX_COMPRESSION, |out: &mut _| write::index_entries(out, index))?;
        self.put(&file, &layer)?;
        let (key, position) = write::index_annotation(&layer);
        layer.annotations.insert(key, position);
        Ok(Made { role: Role::Index, paths: Vec::new(), layer, reused: false })
    }

    fn reuse_or_make(
        self,
        role: Role,
        key: &Key,
        paths: Vec<StorePath>,
        entries: impl FnOnce(&mut write::Writer) -> Result<(), PackError>,
    ) -> Result<Made, PackError> {
        let records = self.options.records.as_deref().map(Records::at);
        if let Some(layer) = records.as_ref().and_then(|records| records.load(key))
            && self.to.has_blob(&descriptor(&layer))?
        {
            self.progress.advance(paths.iter().map(|path| self.closure.paths[path].nar_size).sum());
            return Ok(Made { role, paths, layer, reused: true });
        }
        let (file, layer) = self.write(self.options.compression, entries)?;
        self.put(&file, &layer)?;
        if let Some(records) = records {
            records.store(key, &layer);
        }
        Ok(Made { role, paths, layer, reused: false })
    }

    /// Writes a layer to a file: where the transport wants it, so that it need not be copied.
    fn write(
        self,
        compression: seed_format::layer::Options,
        entries: impl FnOnce(&mut write::Writer) -> Result<(), PackError>,
    ) -> Result<(Scratch, Layer), PackError> {
        let file = match self.to.staging()? {
            Some(path) => Scratch::at(path),
            None => Scratch::in_directory(&self.options.scratch),
        };
        let layer = write::layer(&file, compression, entries)?;
        Ok((file, layer))
    }

    fn put(self, file: &Scratch, layer: &Layer) -> Result<(), PackError> {
        Ok(self.to.put_blob(&descriptor(layer), &mut FileContent::owned(file.path()))?)
    }
}
