use crate::entry::{Entry, Kind};

/// Bytes of a tar block: headers and contents begin at multiples of it.
pub const BLOCK: usize = 512;

/// What ends an archive: two blocks of zeros.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The modification time of everything in a layer, in seconds since 1970: the one that Nix gives.
pub const MODIFICATION_TIME: u64 = 1;

/// The largest number that eleven octal digits hold.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// Name of the member that carries PAX records. Readers do not show it.
const PAX_NAME: &[u8] = b"PaxHeaders/0";

const TYPE_REGULAR: u8 = b'0';
const TYPE_SYMLINK: u8 = b'2';
const TYPE_DIRECTORY: u8 = b'5';
const TYPE_PAX: u8 = b'x';

// Where the fields of a ustar header lie.
const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK_NAME: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const DEV_MAJOR: std::ops::Range<usize> = 329..337;
const DEV_MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;

/// Zeros that follow `size` bytes of contents, up to the next block.
pub fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).expect("less than a block")
}

/// Appends the header blocks of `entry` to `out`: PAX records if it needs them, and the ustar header.
///
/// Owner, group and time are 0, 0 and 1, without names. A directory's name ends with a slash. A path of
/// more than 100 bytes is split at the last slash that leaves at most 155 bytes before it, if at most 100
/// come after; any other goes into a PAX record, and the header then holds the path's first 100 bytes.
/// Names are bytes: one that is not UTF-8 is written as it is, also in a PAX record (`hdrcharset=BINARY`,
/// which POSIX has for that, makes GNU tar complain, and every reader of layers takes the bytes anyway).
pub fn header(entry: &Entry, out: &mut Vec<u8>) {
    let mut path = entry.path.clone();
    let (kind, size, target) = match &entry.kind {
        Kind::Directory => {
            path.push(b'/');
            (TYPE_DIRECTORY, 0, &[][..])
        }
        Kind::Regular { size } => (TYPE_REGULAR, *size, &[][..]),
        Kind::Symlink { target } => (TYPE_SYMLINK, 0, target.as_slice()),
    };
    let split = split_path(&path);
    let mut records = Vec::new();
    let path_in_pax = split.is_none();
    let target_in_pax = target.len() > LINK_NAME.len();
    if path_in_pax {
        record(b"path", &path, &mut records);
    }
    if target_in_pax {
        record(b"linkpath", target, &mut records);
    }
    if size > MAX_OCTAL_11 {
        record(b"size", size.to_string().as_bytes(), &mut records);
    }
    if !records.is_empty() {
        let len = records.len() as u64;
        out.extend_from_slice(&block(TYPE_PAX, (b"", PAX_NAME), 0o444, len, b""));
        out.extend_from_slice(&records);
        out.resize(out.len() + padding(len), 0);
    }
    let name = split.unwrap_or((b"", &path[..path.len().min(NAME.len())]));
    let target = &target[..target.len().min(LINK_NAME.len())];
    let size = if size > MAX_OCTAL_11 { 0 } else { size };
    out.extend_from_slice(&block(kind, name, entry.mode, size, target));
}

/// `path` as ustar's prefix and name, if it fits in them.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME.len() {
        return Some((b"", path));
    }
    let last = path.len() - 1;
    let within = &path[..last.min(PREFIX.len() + 1)];
    let slash = within.iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!prefix.is_empty() && name.len() <= NAME.len()).then_some((prefix, name))
}

fn block(kind: u8, (prefix, name): (&[u8], &[u8]), mode: u16, size: u64, target: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |field: std::ops::Range<usize>, bytes: &[u8]| {
        block[field.start..field.start + bytes.len()].copy_from_slice(bytes);
    };
    put(NAME, name);
    put(MODE, format!("{mode:07o}").as_bytes());
    put(UID, b"0000000");
    put(GID, b"0000000");
    put(SIZE, format!("{size:011o}").as_bytes());
    put(MTIME, format!("{MODIFICATION_TIME:011o}").as_bytes());
    put(CHECKSUM, b"        ");
    put(TYPE..TYPE + 1, &[kind]);
    put(LINK_NAME, target);
    put(MAGIC, b"ustar\x0000");
    put(DEV_MAJOR, b"0000000");
    put(DEV_MINOR, b"0000000");
    put(PREFIX, prefix);
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Appends `<length> <key>=<value>\n`, whose length counts itself.
fn record(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}
