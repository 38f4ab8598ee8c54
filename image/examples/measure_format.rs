//! Measures what compression levels and chunk sizes cost, for `docs/format-measurements.md`.
//!
//! `cargo run --release -p seed-image --example measure_format -- DIRECTORY…` takes each directory as a
//! store path and prints a Markdown table: bytes of the layer, seconds of one core, and how many bytes a
//! reader fetches and decompresses for 4 KiB of a large file.
#![allow(clippy::print_stdout)]

use std::io::{self, Read};
use std::path::Path;

use seed_format::Entry;
use seed_format::layer::{LayerError, LayerWriter, Options};
use seed_format::toc::Located;
use seed_image::tree::{self, TreeError, Visitor};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let roots: Vec<_> = std::env::args_os().skip(1).collect();
    println!("| level | chunk KiB | MB | of it tables | s | MB/s | 4 KiB read fetches KB |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let grid = [3, 4, 5, 6, 7, 8, 9, 12].map(|level| (level, 1 << 18));
    let sizes = (16..=22).flat_map(|log| [(3, 1 << log), (6, 1 << log)]);
    for (level, chunk_size) in grid.into_iter().chain(sizes) {
        measure(&roots, Options { level, chunk_size })?;
    }
    println!("\n| frames of | level | MB |\n| --- | --- | --- |");
    for level in [3, 9, 12] {
        let mut shared = Shared { level, frame: Vec::new(), bytes: 0 };
        roots.iter().try_for_each(|root| tree::walk(Path::new(root), &mut shared))?;
        shared.flush()?;
        println!("| 1 MiB of neighbours | {level} | {:.1} |", mega(shared.bytes));
    }
    Ok(())
}

fn measure(roots: &[std::ffi::OsString], options: Options) -> Result<(), Error> {
    let begun = processor_time();
    let mut packer = Packer { layer: LayerWriter::new(io::sink(), options)?, paths: Vec::new() };
    for (n, root) in roots.iter().enumerate() {
        packer.paths.push(format!("{n:04}").into_bytes());
        tree::walk(Path::new(root), &mut packer)?;
        packer.paths.clear();
    }
    let (_, layer) = packer.layer.finish()?;
    let seconds = processor_time() - begun;
    let tables = Located::from_annotations(&layer.annotations)?
        .map_or(0, |located| located.toc.len + located.tar_split.map_or(0, |tar_split| tar_split.len));
    let large = layer.entries.iter().filter(|entry| entry.chunks.len() > 1).flat_map(|entry| &entry.chunks);
    let (count, bytes) = large.fold((0u64, 0u64), |(n, sum), chunk| (n + 1, sum + u64::from(chunk.blob_len)));
    println!(
        "| {} | {} | {:.1} | {:.1} | {seconds:.1} | {:.0} | {} |",
        options.level,
        options.chunk_size >> 10,
        mega(layer.size),
        mega(tables),
        mega(layer.uncompressed_size) / seconds,
        bytes / count.max(1) / 1000,
    );
    Ok(())
}

/// Seconds of processor time that this process used: another load on the machine does not count.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

struct Packer {
    layer: LayerWriter<io::Sink>,
    paths: Vec<Vec<u8>>,
}

impl Packer {
    fn path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.paths.last().cloned().unwrap_or_default();
        if !name.is_empty() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Visitor for Packer {
    type Error = Failure;

    fn enter(&mut self, name: &[u8]) -> Result<(), Failure> {
        let path = self.path(name);
        self.paths.push(path.clone());
        Ok(self.layer.entry(Entry::directory(path))?)
    }

    fn leave(&mut self) -> Result<(), Failure> {
        self.paths.pop();
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), Failure> {
        Ok(self.layer.entry(Entry::symlink(self.path(name), target))?)
    }

    fn file(
        &mut self,
        name: &[u8],
        size: u64,
        executable: bool,
        contents: &mut dyn Read,
    ) -> Result<(), Failure> {
        Ok(self.layer.file(Entry::regular(self.path(name), size, executable), contents)?)
    }
}

/// What frames would cost that neighbouring files share.
struct Shared {
    level: i32,
    frame: Vec<u8>,
    bytes: u64,
}

impl Shared {
    fn flush(&mut self) -> io::Result<()> {
        self.bytes += zstd::bulk::compress(&self.frame, self.level)?.len() as u64;
        self.frame.clear();
        Ok(())
    }
}

impl Visitor for Shared {
    type Error = Failure;

    fn enter(&mut self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn symlink(&mut self, _: &[u8], _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn file(&mut self, _: &[u8], _: u64, _: bool, mut contents: &mut dyn Read) -> Result<(), Failure> {
        loop {
            let room = (1 << 20) - self.frame.len() as u64;
            if (&mut contents).take(room).read_to_end(&mut self.frame)?
                < room.try_into().unwrap_or(usize::MAX)
            {
                return Ok(());
            }
            self.flush()?;
        }
    }
}
