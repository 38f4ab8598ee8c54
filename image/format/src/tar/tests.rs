use std::io::{Read, Write};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::entry::{Entry, Kind};

fn long(len: usize) -> Vec<u8> {
    b"0123456789".iter().copied().cycle().take(len).collect()
}

/// Entries at each border of the format's fields.
fn entries() -> Vec<Entry> {
    let nested = |first: usize, second: usize| [long(first), b"/".to_vec(), long(second)].concat();
    let mut entries = vec![
        Entry::directory("d"),
        Entry::directory("tmp").with_mode(0o1777),
        Entry::regular("d/empty", 0, false),
        Entry::regular("d/run", 513, true),
        Entry::symlink("d/link", "../elsewhere"),
        Entry::symlink("d/new\nline", "a\nb"),
        Entry::regular(b"d/\xff\xfe".to_vec(), 1, false),
    ];
    for (first, second) in [(50, 49), (50, 50), (155, 100), (156, 100), (155, 101), (1, 101), (100, 1)] {
        entries.push(Entry::regular(nested(first, second), 2, false));
        entries.push(Entry::directory(nested(first, second)));
    }
    for len in [99, 100, 101, 255] {
        entries.push(Entry::directory(long(len)));
        entries.push(Entry::symlink(format!("l{len}"), long(len)));
    }
    entries.push(Entry::symlink("deep", vec![b'x'; 4095]));
    entries.push(Entry::regular([b"n/".repeat(3000), b"\xff".to_vec()].concat(), 0, false));
    entries
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        header(entry, &mut bytes);
        if let Kind::Regular { size } = entry.kind {
            let len = usize::try_from(size).unwrap();
            bytes.resize(bytes.len() + len, b'c');
            bytes.resize(bytes.len() + padding(size), 0);
        }
    }
    bytes.extend_from_slice(&END);
    bytes
}

fn set_checksum(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn reads_what_it_wrote() {
    let bytes = archive(&entries());
    assert_eq!(bytes.len() % BLOCK, 0);
    let mut reader = Reader::new(bytes.as_slice(), Limits::default());
    for entry in entries() {
        let member = reader.next_member().unwrap().unwrap();
        let (path, kind) = match entry.kind {
            Kind::Directory => ([entry.path, b"/".to_vec()].concat(), MemberKind::Directory),
            Kind::Regular { size } => (entry.path, MemberKind::Regular { size }),
            Kind::Symlink { target } => (entry.path, MemberKind::Symlink { target }),
        };
        let expected = Member { path, kind, mode: entry.mode, uid: 0, gid: 0, mtime: 1, xattrs: Vec::new() };
        assert_eq!(member, expected);
        let mut contents = Vec::new();
        reader.read_to_end(&mut contents).unwrap();
        assert!(contents.iter().all(|byte| *byte == b'c'));
    }
    assert_eq!(reader.next_member().unwrap(), None);
    assert_eq!(reader.next_member().unwrap(), None);
    assert_eq!(reader.into_inner(), b"");
}

#[test]
fn pax_records_only_where_they_are_needed() {
    let blocks = |entry: Entry| {
        let mut bytes = Vec::new();
        header(&entry, &mut bytes);
        bytes.len() / BLOCK
    };
    assert_eq!(blocks(Entry::regular(long(100), 0, false)), 1);
    assert_eq!(blocks(Entry::regular(long(101), 0, false)), 3);
    assert_eq!(blocks(Entry::directory(long(99))), 1);
    assert_eq!(blocks(Entry::directory(long(100))), 3, "the slash does not fit");
    assert_eq!(blocks(Entry::regular([long(155), b"/".to_vec(), long(100)].concat(), 0, false)), 1);
    assert_eq!(blocks(Entry::regular("f", 0o77_777_777_777, false)), 1);
    assert_eq!(blocks(Entry::regular("f", 0o100_000_000_000, false)), 3);
}

#[test]
fn sizes_past_eight_gibibytes_are_read() {
    let mut bytes = Vec::new();
    header(&Entry::regular("f", 1 << 40, false), &mut bytes);
    let member = Reader::new(bytes.as_slice(), Limits::default()).next_member().unwrap().unwrap();
    assert_eq!(member.kind, MemberKind::Regular { size: 1 << 40 });
}

#[test]
fn tar_of_gnu_lists_the_same() {
    let mut tar = Command::new("tar")
        .args(["--list", "--verbose", "--quoting-style=escape", "--utc", "--full-time", "--numeric-owner"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = archive(&entries());
    let mut stdin = tar.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = tar.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let listed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(listed.lines().count(), entries().len());
    assert!(listed.contains("drwxrwxrwt 0/0               0 1970-01-01 00:00:01 tmp/\n"), "{listed}");
    assert!(listed.contains("-r-xr-xr-x 0/0             513 1970-01-01 00:00:01 d/run\n"), "{listed}");
    assert!(listed.contains("d/new\\nline -> a\\nb\n"), "{listed}");
    assert!(listed.contains("d/\\377\\376\n"), "{listed}");
}

#[test]
fn refuses_what_is_malformed() {
    let whole = archive(&entries()[..4]);
    for len in (0..whole.len()).step_by(100) {
        let mut reader = Reader::new(&whole[..len], Limits::default());
        let outcome = std::iter::from_fn(|| reader.next_member().transpose()).find(Result::is_err);
        assert!(outcome.is_some(), "cut at {len}");
    }
    let changed = |at: usize, bytes: &[u8]| {
        let mut block = Vec::new();
        header(&Entry::regular("f", 3, false), &mut block);
        block[at..at + bytes.len()].copy_from_slice(bytes);
        set_checksum(&mut block);
        Reader::new(block.as_slice(), Limits::default()).next_member()
    };
    assert!(changed(0, b"g").is_ok());
    assert!(matches!(changed(124, b"9"), Err(TarError::Field("size"))));
    assert!(matches!(changed(124, &[0xff; 12]), Err(TarError::Field("size"))));
    assert!(matches!(changed(100, b"x"), Err(TarError::Field("mode"))));
    assert!(matches!(changed(124, b"77777777777\0x77777777777"), Err(TarError::Field("time"))));

    for records in
        [&b"12 path"[..], b"9 path=a", b"99 path=a\n", b"x", b"0 \n", b"8 path\n", b"11 size=-1\n", b"5 a=\0"]
    {
        let mut bytes = Vec::new();
        header(&Entry::regular("x", records.len() as u64, false), &mut bytes);
        bytes[156] = b'x';
        set_checksum(&mut bytes);
        bytes.extend_from_slice(records);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let outcome = Reader::new(bytes.as_slice(), Limits::default()).next_member();
        assert!(matches!(outcome, Err(TarError::Pax)), "{records:?}: {outcome:?}");
    }
}

#[test]
fn limits_hold() {
    let bytes = archive(&[Entry::directory(long(300)), Entry::directory("d")]);
    for limits in [
        Limits { path_len: 300, ..Limits::default() },
        Limits { extended_len: 300, ..Limits::default() },
        Limits { members: 1, ..Limits::default() },
    ] {
        let mut reader = Reader::new(bytes.as_slice(), limits);
        let outcome = std::iter::from_fn(|| reader.next_member().transpose()).find(Result::is_err);
        assert!(matches!(outcome, Some(Err(TarError::Limit { .. }))), "{limits:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_blocks_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), BLOCK..3 * BLOCK)) {
        set_checksum(&mut bytes[..BLOCK]);
        let mut reader = Reader::new(bytes.as_slice(), Limits::default());
        while let Ok(Some(_)) = reader.next_member() {}
    }

    #[test]
    fn any_path_and_target_round_trip(
        path in proptest::collection::vec(1u8.., 1..400),
        target in proptest::collection::vec(1u8.., 1..400),
    ) {
        prop_assume!(!path.ends_with(b"/") && !path.starts_with(b"/"));
        let mut bytes = Vec::new();
        header(&Entry::symlink(path.clone(), target.clone()), &mut bytes);
        let member = Reader::new(bytes.as_slice(), Limits::default()).next_member().unwrap().unwrap();
        prop_assert_eq!(member.path, path);
        prop_assert_eq!(member.kind, MemberKind::Symlink { target });
    }
}
