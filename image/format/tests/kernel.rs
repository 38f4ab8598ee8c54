//! The index under the tools that did not write it: `fsck.erofs`, `dump.erofs` and the kernel.
//!
//! Mounting needs root, and a kernel that mounts EROFS from files (6.12). Where that cannot be had, say so
//! with `SEED_TEST_WITHOUT_EROFS_MOUNT=1`; nothing is left out silently.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, openat, readlinkat, statat};
use rustix::mount::{MountFlags, UnmountFlags};
use seed_format::entry::Kind;
use seed_format::index::Index;
use support::{Image, mean, small};

/// Set in the copy of this test that runs in a mount namespace of its own.
const INSIDE: &str = "SEED_TEST_INSIDE_NAMESPACE";

/// Writes the index and one sparse file for each layer, with the files' bytes where the index puts them.
fn write_files(image: &Image, directory: &Path) -> Vec<PathBuf> {
    let index = Index::open(image.build()).unwrap();
    std::fs::write(directory.join("index"), index.bytes()).unwrap();
    let devices: Vec<_> = (0..image.layers.len()).map(|n| directory.join(format!("layer-{n}"))).collect();
    let files: Vec<_> = devices.iter().map(|path| File::create(path).unwrap()).collect();
    for (file, layer) in files.iter().zip(index.layers()) {
        file.set_len(layer.virtual_size).unwrap();
    }
    for entry in image.layers.iter().flat_map(|layer| &layer.entries) {
        let inode = index.resolve(&entry.entry.path).unwrap().unwrap();
        if let Some(extent) = index.extent(&inode).unwrap() {
            for (offset, bytes) in windows(&entry.entry.path, extent.len) {
                files[usize::from(extent.layer)].write_all_at(&bytes, extent.offset + offset).unwrap();
            }
        }
    }
    devices
}

/// Bytes of a file that depend on its path and on where they are: all of a small file, and parts of a huge
/// one around the places where numbers of 32 bits end.
fn windows(path: &[u8], size: u64) -> Vec<(u64, Vec<u8>)> {
    let seed = path.iter().fold(1u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let ranges = match size {
        0..=0x10_0000 => [0..size, size..size, size..size],
        _ => [0..5000, (4 << 30) - 4096..(4 << 30) + 1, size - 1..size],
    };
    let bytes = |range: std::ops::Range<u64>| {
        range.map(|n| (n.wrapping_mul(seed | 1) >> 3).to_le_bytes()[0]).collect()
    };
    ranges.into_iter().map(|range| (range.start, bytes(range))).collect()
}

/// Runs a program that must succeed; gives what it printed.
fn run(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error} (install erofs-utils)"));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text.into_owned()
}

fn with_devices<'a>(program: &'a mut Command, devices: &[PathBuf]) -> &'a mut Command {
    program.args(devices.iter().map(|device| format!("--device={}", device.display())))
}

#[test]
fn fsck_and_dump_accept_it() {
    for (name, image) in [("small", small()), ("mean", mean())] {
        let directory = tempfile::tempdir().unwrap();
        let devices = write_files(&image, directory.path());
        let index = directory.path().join("index");
        let inodes = Index::open(std::fs::read(&index).unwrap()).unwrap().inode_count();

        let text = run(with_devices(Command::new("fsck.erofs").arg("-d3"), &devices).arg(&index));
        assert!(text.contains("No errors found"), "{name}: {text}");
        let text = run(with_devices(&mut Command::new("dump.erofs"), &devices).arg("-s").arg(&index));
        for (field, value) in [
            ("magic number", "0xE0F5E1E2".to_owned()),
            ("inode count", inodes.to_string()),
            ("root nid", root_nid(&image)),
        ] {
            let line =
                text.lines().find(|line| line.contains(field)).unwrap_or_else(|| panic!("{field}: {text}"));
            assert!(line.trim_end().ends_with(&value), "{line:?} should give {value}");
        }
        let text = run(with_devices(&mut Command::new("dump.erofs"), &devices)
            .args(["--ls", "--path=/nix"])
            .arg(&index));
        assert!(text.contains("store"), "{name}: {text}");
    }
}

fn root_nid(image: &Image) -> String {
    Index::open(image.build()).unwrap().root().to_string()
}

#[test]
fn kernel_mounts_it() {
    if std::env::var_os(INSIDE).is_some() {
        return compare_mounted();
    }
    if std::env::var_os("SEED_TEST_WITHOUT_EROFS_MOUNT").is_some_and(|value| value == "1") {
        return;
    }
    run(Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "kernel_mounts_it", "--nocapture"])
        .env(INSIDE, "1"));
}

/// Mounts each image, in a mount namespace that ends with this process.
fn compare_mounted() {
    for image in [small(), mean()] {
        let directory = tempfile::tempdir().unwrap();
        let devices = write_files(&image, directory.path());
        let mount = directory.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let devices: Vec<_> = devices.iter().map(|device| format!("device={}", device.display())).collect();
        let options = CString::new(devices.join(",")).unwrap();
        // The system call, since mount(8) puts a loop device between the kernel and the file.
        let index = directory.path().join("index");
        rustix::mount::mount(&index, &mount, "erofs", MountFlags::RDONLY, options.as_c_str()).unwrap();

        let mut expected = image.expected();
        let root = open(&mount, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        compare_directory(&root, b"", &mut expected);
        assert!(
            expected.is_empty(),
            "{} are missing, the first {:?}",
            expected.len(),
            expected.first_key_value()
        );
        drop(root);
        rustix::mount::unmount(&mount, UnmountFlags::empty()).unwrap();
    }
}

/// Compares a directory and all below it, removing from `expected` what is found. Opens every directory in
/// the one above it, since paths may be longer than the kernel takes.
fn compare_directory(directory: &OwnedFd, path: &[u8], expected: &mut BTreeMap<Vec<u8>, (Kind, u16)>) {
    let shown = path.escape_ascii().to_string();
    let (kind, mode) = expected.remove(path).unwrap_or_else(|| panic!("{shown:?} is not expected"));
    assert_eq!(kind, Kind::Directory, "{shown}");
    let stat = statat(directory, "", AtFlags::EMPTY_PATH).unwrap();
    let mut names = Vec::new();
    let mut dots = 0;
    let readable = openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for entry in Dir::read_from(&readable).unwrap() {
        match entry.unwrap().file_name().to_bytes() {
            b"." | b".." => dots += 1,
            name => names.push(name.to_vec()),
        }
    }
    assert_eq!(dots, 2, "{shown}");

    let mut links = 2;
    for name in names {
        let below = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
        let stat = statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if stat.st_mode & 0o170_000 == 0o040_000 {
            links += 1;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            compare_directory(
                &openat(directory, name.as_slice(), flags, Mode::empty()).unwrap(),
                &below,
                expected,
            );
        } else {
            compare_leaf(directory, &name, &below, expected);
        }
    }
    assert_stat(&stat, 0o040_000 | mode, links, &shown);
    assert_eq!(statat(directory, "no such name", AtFlags::empty()).unwrap_err(), rustix::io::Errno::NOENT);
}

fn compare_leaf(
    directory: &OwnedFd,
    name: &[u8],
    path: &[u8],
    expected: &mut BTreeMap<Vec<u8>, (Kind, u16)>,
) {
    let shown = path.escape_ascii().to_string();
    let (kind, mode) = expected.remove(path).unwrap_or_else(|| panic!("{shown:?} is not expected"));
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    match kind {
        Kind::Symlink { target } => {
            assert_stat(&stat, 0o120_000 | mode, 1, &shown);
            assert_eq!(readlinkat(directory, name, Vec::new()).unwrap().as_bytes(), target, "{shown}");
        }
        Kind::Regular { size } => {
            assert_stat(&stat, 0o100_000 | mode, 1, &shown);
            assert_eq!(u64::try_from(stat.st_size), Ok(size), "{shown}");
            let file = File::from(openat(directory, name, OFlags::RDONLY, Mode::empty()).unwrap());
            for (offset, bytes) in windows(path, size) {
                let mut read = vec![0; bytes.len()];
                file.read_exact_at(&mut read, offset).unwrap();
                assert_eq!(read, bytes, "{shown} from {offset} on");
            }
            assert_eq!(file.read_at(&mut [0], size).unwrap(), 0, "{shown} ends");
        }
        Kind::Directory => panic!("{shown:?} is to be a directory"),
    }
}

fn assert_stat(stat: &rustix::fs::Stat, mode: u16, links: u32, shown: &str) {
    assert_eq!(stat.st_mode, u32::from(mode), "mode of {shown}");
    assert_eq!((stat.st_uid, stat.st_gid), (0, 0), "owner of {shown}");
    // A number whose size the architecture decides.
    assert_eq!(i128::from(stat.st_nlink), i128::from(links), "links of {shown}");
    assert_eq!((stat.st_mtime, stat.st_mtime_nsec), (1, 0), "time of {shown}");
}
