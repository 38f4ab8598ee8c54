//! A NAR: what is accepted is exactly what writing it again gives.
#![no_main]

use std::io::Read;

use seed_format::nar::{Event, Limits, Reader, Writer};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::new(data, Limits { depth: 100, nodes: 10_000, file_size: 1 << 20 });
    let mut writer = Writer::new(Vec::new()).unwrap();
    loop {
        let Ok(event) = reader.next_event() else { return };
        match event {
            None => break,
            Some(Event::Directory) => writer.directory().unwrap(),
            Some(Event::Entry { name }) => writer.entry(&name).unwrap(),
            Some(Event::EndDirectory) => writer.end_directory().unwrap(),
            Some(Event::Symlink { target }) => writer.symlink(&target).unwrap(),
            Some(Event::Regular { size, executable }) => {
                let mut contents = Vec::new();
                if reader.read_to_end(&mut contents).is_err() {
                    return;
                }
                writer.regular(size, executable, contents.as_slice()).unwrap().finish().unwrap();
            }
        }
    }
    let written = writer.finish().unwrap();
    assert!(data.starts_with(&written));
});
