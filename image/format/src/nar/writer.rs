use std::io::{self, Read, Write};

use super::{MAGIC, padding};
use crate::entry::{check_name, check_target};

/// Writes a NAR, event by event, in constant memory but for the names of the open directories.
///
/// Events in an impossible order, names that are not ascending and names that no file can have are
/// [`io::ErrorKind::InvalidInput`] errors; the NAR is then unfinished.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// The last name of each open directory, outermost first; empty before the first entry.
    open: Vec<Vec<u8>>,
    expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The root, or the node of the entry that was just named.
    Node,
    /// An entry or the end of the innermost directory.
    Entry,
    /// Nothing: the root is complete.
    Nothing,
}

impl<W: Write> Writer<W> {
    /// Begins a NAR.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, open: Vec::new(), expected: Expected::Node };
        writer.token(MAGIC)?;
        Ok(writer)
    }

    /// Begins a directory.
    pub fn directory(&mut self) -> io::Result<()> {
        self.expect(Expected::Node)?;
        self.tokens(&[b"(", b"type", b"directory"])?;
        self.open.push(Vec::new());
        self.expected = Expected::Entry;
        Ok(())
    }

    /// Names the next entry of the innermost open directory; its node must follow.
    pub fn entry(&mut self, name: &[u8]) -> io::Result<()> {
        self.expect(Expected::Entry)?;
        check_name(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let last = self.open.last_mut().ok_or_else(out_of_order)?;
        if name.contains(&b'/') || (!last.is_empty() && name <= last.as_slice()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "NAR entries must ascend by name"));
        }
        last.clear();
        last.extend_from_slice(name);
        self.tokens(&[b"entry", b"(", b"name", name, b"node"])?;
        self.expected = Expected::Node;
        Ok(())
    }

    /// Ends the innermost open directory.
    pub fn end_directory(&mut self) -> io::Result<()> {
        self.expect(Expected::Entry)?;
        self.open.pop().ok_or_else(out_of_order)?;
        self.token(b")")?;
        self.end_node()
    }

    /// Writes a symbolic link.
    pub fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        self.expect(Expected::Node)?;
        check_target(target).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.tokens(&[b"(", b"type", b"symlink", b"target", target, b")"])?;
        self.end_node()
    }

    /// Begins a regular file of `size` bytes.
    ///
    /// What is read through the answer goes into the NAR; [`Contents::finish`] must be called at its end.
    pub fn regular<R: Read>(
        &mut self,
        size: u64,
        executable: bool,
        source: R,
    ) -> io::Result<Contents<'_, W, R>> {
        self.expect(Expected::Node)?;
        self.tokens(&[b"(", b"type", b"regular"])?;
        if executable {
            self.tokens(&[b"executable", b""])?;
        }
        self.token(b"contents")?;
        self.out.write_all(&size.to_le_bytes())?;
        Ok(Contents { nar: self, source, left: size, padding: padding(size) })
    }

    /// Ends the NAR and gives the inner writer back.
    pub fn finish(self) -> io::Result<W> {
        self.expect(Expected::Nothing)?;
        Ok(self.out)
    }

    fn end_node(&mut self) -> io::Result<()> {
        if self.open.is_empty() {
            self.expected = Expected::Nothing;
            return Ok(());
        }
        self.expected = Expected::Entry;
        self.token(b")")
    }

    fn expect(&self, event: Expected) -> io::Result<()> {
        if self.expected == event { Ok(()) } else { Err(out_of_order()) }
    }

    fn tokens(&mut self, tokens: &[&[u8]]) -> io::Result<()> {
        tokens.iter().try_for_each(|token| self.token(token))
    }

    fn token(&mut self, token: &[u8]) -> io::Result<()> {
        let len = token.len() as u64;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(token)?;
        self.out.write_all(&[0; 7][..padding(len)])
    }
}

fn out_of_order() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "NAR events out of order")
}

/// The contents of one regular file, on their way from a source into a NAR and to whoever reads them.
#[derive(Debug)]
pub struct Contents<'a, W, R> {
    nar: &'a mut Writer<W>,
    source: R,
    /// Bytes that have not been read yet.
    left: u64,
    /// Zeros that follow the contents.
    padding: usize,
}

impl<W: Write, R: Read> Contents<'_, W, R> {
    /// Reads what is left and ends the file.
    ///
    /// An error of kind [`io::ErrorKind::InvalidData`] tells that the source had more or fewer bytes than
    /// were announced.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        self.nar.out.write_all(&[0; 7][..self.padding])?;
        self.nar.token(b")")?;
        self.nar.end_node()
    }
}

impl<W: Write, R: Read> Read for Contents<'_, W, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        if n as u64 > self.left || (n == 0 && self.left > 0 && !buf.is_empty()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file changed its size while it was read",
            ));
        }
        self.nar.out.write_all(&buf[..n])?;
        self.left -= n as u64;
        Ok(n)
    }
}
