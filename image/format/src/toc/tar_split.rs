//! tar-split: what is in a tar stream beside the files' bytes.
//!
//! Who pulls a layer by its TOC can rebuild the very tar stream from the files and these data, and so check
//! its DiffID; containers/storage 1.55 and newer insist on it. Source of the format: `tar/storage` and
//! `tar/asm` of vbatts/tar-split. One JSON object a line:
//!
//! * a segment, `{"type":2,"payload":<base64>,"position":n}`: bytes of the stream: the zeros that follow
//!   the contents of the member before, and all header blocks of one member; at the end the last zeros;
//! * a file, `{"type":1,"name":…,"size":…,"payload":<base64>,"position":n}`: one for every member, behind
//!   its header. `payload` is the CRC-64 (ISO, big-endian) of its contents, `null` where it has none.

use std::io::{self, Write};

use data_encoding::BASE64;

/// The CRC-64 that tar-split checks contents by: `hash/crc64` of Go with its ISO polynomial.
static CRC: crc::Crc<u64, crc::Table<16>> = crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_GO_ISO);

/// A running CRC-64 of one file's contents.
pub struct Checksum(crc::Digest<'static, u64, crc::Table<16>>);

impl Checksum {
    /// The checksum of nothing.
    pub fn new() -> Self {
        Self(CRC.digest())
    }

    /// Takes more contents in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum, as it is written.
    pub fn finish(self) -> [u8; 8] {
        self.0.finalize().to_be_bytes()
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes tar-split data.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    position: u64,
}

impl<W: Write> Writer<W> {
    /// Begins at position 0.
    pub fn new(out: W) -> Self {
        Self { out, position: 0 }
    }

    /// Writes bytes of the stream that are no file's.
    pub fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        let payload = BASE64.encode(bytes);
        writeln!(self.out, r#"{{"type":2,"payload":"{payload}","position":{}}}"#, self.position)?;
        self.position += 1;
        Ok(())
    }

    /// Writes a member: its name as the header has it, its size, and its checksum if it has contents.
    pub fn file(&mut self, name: &str, size: u64, checksum: Option<[u8; 8]>) -> io::Result<()> {
        write!(self.out, r#"{{"type":1,"name":{}"#, serde_json::Value::from(name))?;
        if size > 0 {
            write!(self.out, r#","size":{size}"#)?;
        }
        match checksum {
            Some(checksum) => write!(self.out, r#","payload":"{}""#, BASE64.encode(&checksum))?,
            None => write!(self.out, r#","payload":null"#)?,
        }
        writeln!(self.out, r#","position":{}}}"#, self.position)?;
        self.position += 1;
        Ok(())
    }

    /// The inner writer.
    pub fn finish(self) -> W {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_go() {
        // `crc64.Checksum([]byte(...), crc64.MakeTable(crc64.ISO))`, from the tests of Go's hash/crc64.
        let cases = [("", 0), ("a", 0x3420_0000_0000_0000), ("abcdefg", 0x31b0_02d3_6776_c420_u64)];
        for (text, checksum) in cases {
            let mut running = Checksum::new();
            running.update(text.as_bytes());
            assert_eq!(u64::from_be_bytes(running.finish()), checksum, "{text:?}");
        }
    }

    #[test]
    fn lines_are_those_of_tar_split() {
        let mut writer = Writer::new(Vec::new());
        writer.segment(b"\0\xff").unwrap();
        writer.file("a\"\n", 3, Some(*b"12345678")).unwrap();
        writer.file("d/", 0, None).unwrap();
        let text = String::from_utf8(writer.finish()).unwrap();
        let expected = concat!(
            r#"{"type":2,"payload":"AP8=","position":0}"#,
            "\n",
            r#"{"type":1,"name":"a\"\n","size":3,"payload":"MTIzNDU2Nzg=","position":1}"#,
            "\n",
            r#"{"type":1,"name":"d/","payload":null,"position":2}"#,
            "\n",
        );
        assert_eq!(text, expected);
    }
}
