//! The [`Blobs`] of a seed as the kernel asks for them: one flat directory.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use seed_format::index::FileType;

use super::failures::Failures;
use super::notice::Notices;
use super::pages::Pages;
use super::pending::ReadReply;
use super::seed_tree::logged;
use super::service::{Service, Space};
use crate::blobs::{Blob, Blobs};
use crate::tree::{Attr, Data, Ino, ListedEntry, ROOT, TreeError};

/// Chunks up to this size are loaded from the cache's disk, and hashed, without a change of thread.
const INLINE_CHUNK: u32 = 128 << 10;
/// Inode of the image. That of layer `n` is this and `n + 1`: the same in every server of the seed.
const IMAGE: u64 = ROOT.0 + 1;

/// A directory with the EROFS image and the virtual blobs of its devices.
#[derive(Debug)]
pub(crate) struct SeedBlobs {
    blobs: Blobs,
    /// Name of the image: what the mount table shows as the source of what is mounted from it.
    image: String,
    failures: Arc<Failures>,
    pages: Arc<Pages>,
}

impl SeedBlobs {
    /// The image is called `image`, the devices as [`layer_name`] says. `notices` are for the connection that
    /// this will answer.
    pub(crate) fn new(blobs: Blobs, image: &str, notices: Notices) -> io::Result<Self> {
        let pages = Arc::new(Pages::forgotten_by(notices)?);
        Ok(Self { blobs, image: image.to_owned(), failures: Arc::default(), pages })
    }

    /// The inode of a file.
    pub(crate) fn number(blob: Blob) -> Ino {
        match blob {
            Blob::Image => Ino(IMAGE),
            Blob::Layer(layer) => Ino(IMAGE + 1 + u64::from(layer)),
        }
    }

    fn blob(&self, ino: Ino) -> Result<Blob, Errno> {
        let blob = match ino.0.checked_sub(IMAGE) {
            None => return Err(Errno::ISDIR),
            Some(0) => Blob::Image,
            Some(number) => Blob::Layer(u16::try_from(number - 1).map_err(|_| Errno::NOENT)?),
        };
        self.blobs.size(blob).map(|_| blob).ok_or(Errno::NOENT)
    }

    fn name(&self, blob: Blob) -> String {
        match blob {
            Blob::Image => self.image.clone(),
            Blob::Layer(layer) => layer_name(layer),
        }
    }

    fn all(&self) -> impl Iterator<Item = Blob> {
        std::iter::once(Blob::Image).chain((0..self.blobs.layers()).map(Blob::Layer))
    }

    fn attr_of(&self, blob: Blob) -> Attr {
        let size = self.blobs.size(blob).unwrap_or(0);
        Attr { ino: Self::number(blob), kind: FileType::Regular, mode: 0o400, size, nlink: 1 }
    }
}

/// Name of the virtual blob of a layer, counted from 0.
pub(crate) fn layer_name(layer: u16) -> String {
    format!("layer-{layer}")
}

/// Notes what EROFS will copy. The image it reads where it lies.
fn given(pages: &Pages, blob: Blob, offset: u64, len: usize) {
    if let Blob::Layer(_) = blob {
        pages.give(SeedBlobs::number(blob), offset..offset + len as u64);
    }
}

impl Service for SeedBlobs {
    fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Attr>, Errno> {
        if directory != ROOT {
            return Err(Errno::NOTDIR);
        }
        let found = self.all().find(|blob| self.name(*blob).as_bytes() == name);
        Ok(found.map(|blob| self.attr_of(blob)))
    }

    fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        if ino == ROOT {
            return Ok(Attr { ino, kind: FileType::Directory, mode: 0o500, size: 0, nlink: 2 });
        }
        Ok(self.attr_of(self.blob(ino)?))
    }

    fn read_link(&self, _: Ino) -> Result<&[u8], Errno> {
        Err(Errno::INVAL)
    }

    fn list(
        &self,
        directory: Ino,
        cursor: u64,
        each: &mut dyn FnMut(&ListedEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        if directory != ROOT {
            return Err(Errno::NOTDIR);
        }
        let dots = [".", ".."].map(|name| (name.to_owned(), ROOT, FileType::Directory));
        let files = self.all().map(|blob| (self.name(blob), Self::number(blob), FileType::Regular));
        let skipped = usize::try_from(cursor).unwrap_or(usize::MAX);
        for (at, (name, ino, kind)) in (0..).zip(dots.into_iter().chain(files)).skip(skipped) {
            if !each(&ListedEntry { name: name.as_bytes(), ino, kind, next: at + 1 }) {
                break;
            }
        }
        Ok(())
    }

    fn space(&self) -> Space {
        let bytes = self.all().filter_map(|blob| self.blobs.size(blob)).sum();
        Space { bytes, files: u64::from(self.blobs.layers()) + 2 }
    }

    fn read_now(&self, ino: Ino, offset: u64, size: u32, reply: ReadReply) -> Result<(), ReadReply> {
        let Ok(blob) = self.blob(ino) else { return Err(reply) };
        match self.blobs.read_cached(blob, offset, size, INLINE_CHUNK) {
            Some(data) => {
                given(&self.pages, blob, offset, data.len());
                reply.data(&data);
                Ok(())
            }
            None => Err(reply),
        }
    }

    fn read(&self, ino: Ino, offset: u64, size: u32, reply: ReadReply) {
        let blob = match self.blob(ino) {
            Ok(blob) => blob,
            Err(error) => return reply.error(error),
        };
        if let Some(error) = self.failures.of(ino, offset, size) {
            return reply.error(error);
        }
        let (failures, pages) = (Arc::clone(&self.failures), Arc::clone(&self.pages));
        let answer = move |result: Result<Data, TreeError>| match result {
            Ok(data) => {
                given(&pages, blob, offset, data.len());
                reply.data(&data);
            }
            Err(error) => {
                let error = logged(ino, &error);
                failures.note(ino, offset, size, error);
                reply.error(error);
            }
        };
        self.blobs.read(blob, offset, size, Box::new(answer));
    }
}
