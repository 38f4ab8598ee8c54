use std::io::{Read, Write};

use proptest::prelude::*;

use super::*;
use crate::Digest;

/// `d/{a (executable), b -> a, empty/}`, as a NAR.
fn sample() -> Vec<u8> {
    let mut nar = Writer::new(Vec::new()).unwrap();
    nar.directory().unwrap();
    nar.entry(b"a").unwrap();
    nar.regular(5, true, &b"hello"[..]).unwrap().finish().unwrap();
    nar.entry(b"b").unwrap();
    nar.symlink(b"a").unwrap();
    nar.entry(b"empty").unwrap();
    nar.directory().unwrap();
    nar.end_directory().unwrap();
    nar.end_directory().unwrap();
    nar.finish().unwrap()
}

fn events(bytes: &[u8], limits: Limits) -> Result<Vec<(Event, Vec<u8>)>, NarError> {
    let mut reader = Reader::new(bytes, limits);
    let mut events = Vec::new();
    while let Some(event) = reader.next_event()? {
        let mut contents = Vec::new();
        reader.read_to_end(&mut contents)?;
        events.push((event, contents));
    }
    assert_eq!(reader.into_inner(), b"", "all of it is read");
    Ok(events)
}

#[test]
fn hashes_are_those_of_nix() {
    // `nix-hash --type sha256` of a file with "hello\n", of a link to "x", and of an empty directory.
    let mut file = Writer::new(Vec::new()).unwrap();
    file.regular(6, false, &b"hello\n"[..]).unwrap().finish().unwrap();
    let mut link = Writer::new(Vec::new()).unwrap();
    link.symlink(b"x").unwrap();
    let mut directory = Writer::new(Vec::new()).unwrap();
    directory.directory().unwrap();
    directory.end_directory().unwrap();
    for (nar, hex) in [
        (file, "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13"),
        (link, "bb941e86b07436518c49d07e4afba93e6343ba70f36e17bdeaa76f3f32f4dfb4"),
        (directory, "a50a5ab6d992f5598edd92105059fae9acfc192981e08bd88534c2167e92526a"),
    ] {
        assert_eq!(Digest::of(&nar.finish().unwrap()).hex(), hex);
    }
}

#[test]
fn reads_what_it_wrote() {
    let events = events(&sample(), Limits::default()).unwrap();
    let expected = [
        (Event::Directory, &b""[..]),
        (Event::Entry { name: b"a".to_vec() }, b""),
        (Event::Regular { size: 5, executable: true }, b"hello"),
        (Event::Entry { name: b"b".to_vec() }, b""),
        (Event::Symlink { target: b"a".to_vec() }, b""),
        (Event::Entry { name: b"empty".to_vec() }, b""),
        (Event::Directory, b""),
        (Event::EndDirectory, b""),
        (Event::EndDirectory, b""),
    ];
    assert_eq!(events, expected.map(|(event, contents)| (event, contents.to_vec())));
}

#[test]
fn contents_that_nobody_reads_are_skipped() {
    let bytes = sample();
    let mut reader = Reader::new(bytes.as_slice(), Limits::default());
    let mut count = 0;
    while reader.next_event().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 9);
}

#[test]
fn the_writer_refuses_impossible_events() {
    let fresh = || Writer::new(Vec::new()).unwrap();
    assert!(fresh().finish().is_err());
    assert!(fresh().entry(b"a").is_err());
    assert!(fresh().end_directory().is_err());
    assert!(fresh().symlink(b"").is_err());

    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'n'; 256], b"a", b"A"] {
        let mut nar = fresh();
        nar.directory().unwrap();
        nar.entry(b"a").unwrap();
        nar.symlink(b"t").unwrap();
        assert!(nar.entry(name).is_err(), "{name:?}");
    }
    for contents in [&b"abc"[..], b"abcde"] {
        assert!(fresh().regular(4, false, contents).unwrap().finish().is_err());
    }
    let mut done = fresh();
    done.symlink(b"t").unwrap();
    assert!(done.symlink(b"t").is_err());
}

/// A NAR of raw tokens; a token that begins with `!` is bytes without a length.
fn tokens(tokens: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for token in tokens {
        if let Some(raw) = token.strip_prefix(b"!") {
            bytes.write_all(raw).unwrap();
            continue;
        }
        bytes.write_all(&(token.len() as u64).to_le_bytes()).unwrap();
        bytes.write_all(token).unwrap();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

#[test]
fn refuses_what_is_malformed() {
    let directory: &[&[u8]] = &[b"nix-archive-1", b"(", b"type", b"directory"];
    let entry: &[&[u8]] =
        &[b"entry", b"(", b"name", b"a", b"node", b"(", b"type", b"symlink", b"target", b"t", b")", b")"];
    let named = |name: &'static [u8]| -> Vec<u8> {
        let entry = [&entry[..3], &[name], &entry[4..]].concat();
        tokens(&[directory, &entry, &[b")"]].concat())
    };
    let mut bad_padding = sample();
    bad_padding[8 + 15] = 1;
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("another magic", tokens(&[b"nix-archive-2"])),
        ("another type", tokens(&[b"nix-archive-1", b"(", b"type", b"fifo", b")"])),
        ("no type", tokens(&[b"nix-archive-1", b"(", b"target"])),
        ("padding", bad_padding),
        ("order", tokens(&[directory, entry, entry, &[b")"]].concat())),
        ("huge token", tokens(&[b"nix-archive-1", b"(", b"!\xff\xff\xff\xff\xff\xff\xff\x7f"])),
        (
            "huge file",
            tokens(&[
                b"nix-archive-1",
                b"(",
                b"type",
                b"regular",
                b"contents",
                b"!\xff\xff\xff\xff\xff\xff\xff\xff",
            ]),
        ),
        ("empty name", named(b"")),
        ("dot", named(b".")),
        ("dots", named(b"..")),
        ("slash", named(b"a/b")),
        ("NUL", named(b"a\0b")),
        ("long name", named(&[b'n'; 256])),
    ] {
        assert!(events(&bytes, Limits::default()).is_err(), "{what}");
    }
    let whole = sample();
    for len in 0..whole.len() {
        assert!(events(&whole[..len], Limits::default()).is_err(), "cut at {len}");
    }
}

#[test]
fn limits_hold() {
    let bytes = sample();
    let all = Limits { depth: 2, nodes: 4, file_size: 5 };
    assert!(events(&bytes, all).is_ok());
    for limits in [Limits { depth: 1, ..all }, Limits { nodes: 3, ..all }, Limits { file_size: 4, ..all }] {
        assert!(matches!(events(&bytes, limits), Err(NarError::Limit { .. })), "{limits:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Reader::new(bytes.as_slice(), Limits::default()).next_event();
    }

    #[test]
    fn a_changed_byte_is_an_error_or_another_archive(at in 0usize..400, to in any::<u8>()) {
        let mut bytes = sample();
        let at = at % bytes.len();
        let same = bytes[at] == to;
        bytes[at] = to;
        let mut reader = Reader::new(bytes.as_slice(), Limits::default());
        let mut seen = Vec::new();
        let outcome = loop {
            match reader.next_event() {
                Ok(Some(event)) => {
                    let mut contents = Vec::new();
                    if reader.read_to_end(&mut contents).is_err() { break false }
                    seen.push((event, contents));
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if outcome && !same {
            prop_assert_ne!(seen, events(&sample(), Limits::default()).unwrap());
        }
    }
}
