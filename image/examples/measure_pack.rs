//! Measures packing, for `docs/format-measurements.md`.
//!
//! `cargo run --release -p seed-image --example measure_pack -- STORE WORK` takes the entries of the
//! directory STORE, which have names of store paths, as a closure; packs it into an image layout in the
//! empty directory WORK; again; and again after a small path was added. Prints seconds and peak memory.
#![allow(clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use seed_format::StorePath;
use seed_image::closure::{Closure, PathInfo};
use seed_image::pack::{Options, pack};
use seed_image::transport::Layout;
use seed_image::{seed, tree, verify};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [store, work] = arguments.as_slice() else { return Err("usage: measure_pack STORE WORK".into()) };
    let mut closure = Closure { real_store: store.clone(), ..Closure::default() };
    for entry in fs::read_dir(store)? {
        register(&mut closure, entry?.file_name().to_str().ok_or("a name is not UTF-8")?)?;
    }
    let mut options = Options::new("x86_64-linux");
    options.records = Some(work.join("records"));
    let layout = Layout::new(work.join("layout"));
    println!("{} paths, {} MB; {} MB resident", closure.paths.len(), closure.nar_size() / 1_000_000, peak()?);
    measure("pack", &closure, &options, &layout)?;
    measure("again", &closure, &options, &layout)?;

    let added = "0123456789abcdfghijklmnpqrsvwxyz-added";
    fs::write(store.join(added), "a small path\n")?;
    register(&mut closure, added)?;
    let digest = measure("after a small path was added", &closure, &options, &layout)?;
    fs::remove_file(store.join(added))?;

    let begun = Instant::now();
    let verified = verify::deep(&layout, &seed::open(&layout, &digest)?, &())?;
    println!("verify in depth: {:.2} s, {verified:?}", begun.elapsed().as_secs_f64());
    Ok(())
}

fn register(closure: &mut Closure, base: &str) -> Result<(), Error> {
    let path = StorePath::from_base_name(base)?;
    let (nar_hash, nar_size) = tree::nar_hash(&closure.real_path(&path))?;
    let info = PathInfo { path: path.clone(), nar_hash, nar_size, references: [].into(), ca: None };
    closure.paths.insert(path, info);
    Ok(())
}

fn measure(
    what: &str,
    closure: &Closure,
    options: &Options,
    layout: &Layout,
) -> Result<seed_format::Digest, Error> {
    let begun = Instant::now();
    let packed = pack(closure, options, layout, None, &())?;
    let seconds = begun.elapsed().as_secs_f64();
    let made = packed.layers.iter().filter(|layer| !layer.reused).count();
    println!(
        "{what}: {seconds:.2} s, {} MB in {} layers, {made} of them made; index {} KB; peak {} MB",
        packed.size() / 1_000_000,
        packed.layers.len(),
        packed.index_size / 1000,
        peak()?,
    );
    Ok(packed.digest)
}

/// Most memory that this process had resident, in MB.
fn peak() -> Result<u64, Error> {
    let status = fs::read_to_string(Path::new("/proc/self/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? / 1000)
}
