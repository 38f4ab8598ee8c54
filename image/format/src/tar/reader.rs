use std::io::{self, Read};

use super::header::{BLOCK, padding};
use crate::padded::Padded;

/// What a [`Reader`] accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest path or link target, in bytes.
    pub path_len: usize,
    /// Most bytes of the extended headers of one member.
    pub extended_len: u64,
    /// Most members.
    pub members: u64,
}

impl Default for Limits {
    /// Enough for every layer that a Linux file system can hold.
    fn default() -> Self {
        Self { path_len: 1 << 16, extended_len: 1 << 20, members: 1 << 32 }
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A directory.
    Directory,
    /// A regular file; the [`Reader`] gives its contents as [`Read`] until the next member is asked for.
    Regular {
        /// Bytes of its contents.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What the link holds.
        target: Vec<u8>,
    },
    /// Another name of an earlier member.
    HardLink {
        /// The earlier member's path.
        target: Vec<u8>,
    },
    /// Anything else (devices, pipes), by its type byte.
    Other(u8),
}

/// One member of an archive, as its headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path, byte for byte.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time in seconds since 1970; a fraction is dropped.
    pub mtime: i64,
    /// Extended attributes (`SCHILY.xattr.*` records), in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why bytes are not a tar archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source failed, or ended too early.
    #[error("the tar archive cannot be read")]
    Io(#[from] io::Error),
    /// A header has another checksum than it states.
    #[error("a tar header has a wrong checksum")]
    Checksum,
    /// A field of a header cannot be read.
    #[error("a tar header has a bad {0}")]
    Field(&'static str),
    /// A PAX record cannot be read.
    #[error("a tar member has a malformed PAX record")]
    Pax,
    /// The archive goes beyond one of the [`Limits`].
    #[error("the tar archive has {what} beyond the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Reads ustar, PAX and GNU archives member by member, in memory bounded by its [`Limits`].
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    limits: Limits,
    /// What has not been read yet of the current member.
    contents: Padded,
    members: u64,
    ended: bool,
}

/// What extended headers say about the member that follows.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
    uid: Option<u64>,
    gid: Option<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Reader<R> {
    /// Reads an archive from `source`, which should be buffered.
    pub fn new(source: R, limits: Limits) -> Self {
        Self { source, limits, contents: Padded::default(), members: 0, ended: false }
    }

    /// The next member, or `None` at the end. What was left of a file's contents is skipped.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.contents.skip(&mut self.source)?;
        let mut extended = Extended::default();
        let mut extended_bytes = 0;
        loop {
            let Some(block) = self.block()? else { return Ok(None) };
            let size = number(&block[124..136]).ok_or(TarError::Field("size"))?;
            let kind = block[156];
            if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
                return self.member(&block, extended, size).map(Some);
            }
            extended_bytes += size;
            if extended_bytes > self.limits.extended_len {
                return Err(TarError::Limit { what: "extended headers", limit: self.limits.extended_len });
            }
            let body = self.body(size)?;
            match kind {
                b'x' => extended.read_records(&body)?,
                b'L' => extended.path = Some(until_nul(&body).to_vec()),
                b'K' => extended.target = Some(until_nul(&body).to_vec()),
                // Global records (comments of git, mostly) change nothing that is shown here.
                _ => Extended::default().read_records(&body)?,
            }
        }
    }

    /// The source, behind the end blocks once [`Reader::next_member`] gave `None`.
    pub fn into_inner(self) -> R {
        self.source
    }

    fn member(&mut self, block: &[u8; BLOCK], extended: Extended, size: u64) -> Result<Member, TarError> {
        self.members += 1;
        if self.members > self.limits.members {
            return Err(TarError::Limit { what: "members", limit: self.limits.members });
        }
        let path = extended.path.unwrap_or_else(|| {
            let (name, prefix) = (until_nul(&block[..100]), until_nul(&block[345..500]));
            let has_prefix = block[257..263] == *b"ustar\0" && !prefix.is_empty();
            if has_prefix { [prefix, b"/", name].concat() } else { name.to_vec() }
        });
        let target = extended.target.unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
        if path.len().max(target.len()) > self.limits.path_len {
            return Err(TarError::Limit { what: "a path", limit: self.limits.path_len as u64 });
        }
        let size = extended.size.unwrap_or(size);
        let kind = match block[156] {
            b'0' | 0 | b'7' if block[156] == 0 && path.ends_with(b"/") => MemberKind::Directory,
            b'0' | 0 | b'7' => MemberKind::Regular { size },
            b'1' => MemberKind::HardLink { target },
            b'2' => MemberKind::Symlink { target },
            b'5' => MemberKind::Directory,
            other => MemberKind::Other(other),
        };
        // POSIX gives links, directories and devices no contents, whatever their size field says.
        let has_contents = matches!(kind, MemberKind::Regular { .. });
        let size = if has_contents { size } else { 0 };
        self.contents = Padded::new(size, padding(size));
        let mode = number(&block[100..108]).ok_or(TarError::Field("mode"))?;
        let mtime = number(&block[136..148]).and_then(|time| i64::try_from(time).ok());
        Ok(Member {
            path,
            kind,
            mode: u16::try_from(mode & 0o7777).map_err(|_| TarError::Field("mode"))?,
            uid: extended.uid.or_else(|| number(&block[108..116])).ok_or(TarError::Field("owner"))?,
            gid: extended.gid.or_else(|| number(&block[116..124])).ok_or(TarError::Field("group"))?,
            mtime: extended.mtime.or(mtime).ok_or(TarError::Field("time"))?,
            xattrs: extended.xattrs,
        })
    }

    /// The next header block; `None` at a block of zeros, which ends the archive.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.source.read_exact(&mut block)?;
        if block == [0; BLOCK] {
            self.source.read_exact(&mut block)?;
            self.ended = true;
            return if block == [0; BLOCK] { Ok(None) } else { Err(TarError::Field("end")) };
        }
        let stated = number(&block[148..156]).ok_or(TarError::Field("checksum"))?;
        let sum: u64 = block.iter().copied().map(u64::from).sum();
        let field: u64 = block[148..156].iter().copied().map(u64::from).sum();
        if sum - field + 8 * u64::from(b' ') != stated {
            return Err(TarError::Checksum);
        }
        Ok(Some(block))
    }

    fn body(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut body = Vec::new();
        self.source.by_ref().take(size).read_to_end(&mut body)?;
        Padded::new(size - body.len() as u64, padding(size)).skip(&mut self.source)?;
        Ok(body)
    }
}

/// The contents of the regular file that was the last member; nothing after any other member.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.contents.read(&mut self.source, buf)
    }
}

impl Extended {
    fn read_records(&mut self, mut rest: &[u8]) -> Result<(), TarError> {
        while !rest.is_empty() {
            let space = rest.iter().take(20).position(|byte| *byte == b' ').ok_or(TarError::Pax)?;
            let len: usize = parse(&rest[..space])?;
            let record = rest.get(space + 1..len).ok_or(TarError::Pax)?;
            rest = &rest[len..];
            let record = record.strip_suffix(b"\n").ok_or(TarError::Pax)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(TarError::Pax)?;
            self.read_record(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }

    fn read_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let text = || if value.contains(&0) { Err(TarError::Pax) } else { Ok(Some(value.to_vec())) };
        match key {
            b"path" => self.path = text()?,
            b"linkpath" => self.target = text()?,
            b"size" => self.size = Some(parse(value)?),
            b"uid" => self.uid = Some(parse(value)?),
            b"gid" => self.gid = Some(parse(value)?),
            b"mtime" => {
                let whole = value.split(|byte| *byte == b'.').next().unwrap_or(value);
                self.mtime = Some(parse(whole)?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn parse<T: std::str::FromStr>(digits: &[u8]) -> Result<T, TarError> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(TarError::Pax)
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

/// A header's number: octal digits with spaces or NULs around, or GNU's base 256. Empty is 0.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = field.split_first() {
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        return (high.iter().all(|byte| *byte == 0))
            .then(|| low.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let digits = field.split(|byte| *byte == 0).next()?.trim_ascii();
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' if value >> 61 == 0 => Some(value << 3 | u64::from(digit - b'0')),
        _ => None,
    })
}
