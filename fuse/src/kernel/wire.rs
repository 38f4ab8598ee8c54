//! The messages of the FUSE protocol, as `linux/fuse.h` lays them out (version 7.23 and later; what is newer
//! is said where it is used).
//!
//! Numbers have the machine's byte order. Each message is a fixed row of fields without gaps; names and data
//! follow it.

/// Version that this side speaks. The kernel adapts to what is older than itself.
pub(super) const MAJOR: u32 = 7;
/// See [`MAJOR`]. The layouts below are the same in all later versions.
pub(super) const MINOR: u32 = 41;
/// The first version whose answer to INIT has 64 bytes (Linux 3.15).
pub(super) const OLDEST_MINOR: u32 = 23;
/// The kernel gives a request only to a buffer of at least this size, whatever its own (`fuse.h`).
pub(super) const MIN_BUFFER: usize = 8192;

/// Kinds of requests.
pub(super) mod opcode {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const INTERRUPT: u32 = 36;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const NOTIFY_REPLY: u32 = 41;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const READDIRPLUS: u32 = 44;
}

/// What the kernel offers in INIT, and we take.
pub(super) mod capability {
    /// READs of one file may be under way together.
    pub(in super::super) const ASYNC_READ: u64 = 1 << 0;
    /// Listings come with attributes.
    pub(in super::super) const DO_READDIRPLUS: u64 = 1 << 13;
    /// `ENOSYS` for OPEN is understood.
    pub(in super::super) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    /// LOOKUPs and READDIRs of one directory may be under way together.
    pub(in super::super) const PARALLEL_DIROPS: u64 = 1 << 18;
    /// One READ may have more than 32 pages.
    pub(in super::super) const MAX_PAGES: u64 = 1 << 22;
    /// The targets of links are cached.
    pub(in super::super) const CACHE_SYMLINKS: u64 = 1 << 23;
    /// `ENOSYS` for OPENDIR is understood.
    pub(in super::super) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    /// There are more than 32 capabilities.
    pub(in super::super) const INIT_EXT: u64 = 1 << 30;
    /// [`NOTIFY_RESEND`](super::NOTIFY_RESEND) is understood (Linux 6.9).
    pub(in super::super) const HAS_RESEND: u64 = 1 << 39;
}

/// As a message of its own, without a request: all requests that were read and not answered shall come again.
pub(super) const NOTIFY_RESEND: i32 = 7;

/// Types of files in listings, as `d_type` has them; shifted by 12, as `st_mode` does.
pub(super) mod file_type {
    pub(in super::super) const DIRECTORY: u32 = 4;
    pub(in super::super) const REGULAR: u32 = 8;
    pub(in super::super) const SYMLINK: u32 = 10;
}

/// A row of numbers, with its size in bytes.
macro_rules! layout {
    ($(#[$doc:meta])* $name:ident, $size:literal, { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub(super) struct $name { $($(#[$field_doc])* pub(super) $field: $kind,)* }

        const _: () = assert!(0 $(+ size_of::<$kind>())* == $size);

        #[allow(dead_code, reason = "requests are read and answers written; the tests do both to both")]
        impl $name {
            /// Bytes of the message.
            pub(super) const SIZE: usize = $size;

            pub(super) fn encode(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                let rest = &mut bytes[..];
                $(let rest = {
                    let (field, rest) = rest.split_at_mut(size_of::<$kind>());
                    field.copy_from_slice(&self.$field.to_ne_bytes());
                    rest
                };)*
                debug_assert!(rest.is_empty());
                bytes
            }

            /// `None` if there are too few bytes; more may follow.
            pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
                let rest = bytes.get(..$size)?;
                $(let ($field, rest) = rest.split_first_chunk()?;)*
                debug_assert!(rest.is_empty());
                Some(Self { $($field: <$kind>::from_ne_bytes(*$field),)* })
            }
        }
    };
}

layout!(
    /// `fuse_in_header`: before every request.
    InHeader, 40, {
        /// Bytes of the request, this header among them.
        len: u32,
        opcode: u32,
        /// The request's number, which its answer repeats. Even; the number of an INTERRUPT is odd.
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        /// The thread that waits, in the mounter's process namespace; 0 for read-ahead.
        pid: u32,
        total_extlen: u16,
        padding: u16,
    }
);

layout!(
    /// `fuse_out_header`: before every answer.
    OutHeader, 16, {
        /// Bytes of the answer, this header among them.
        len: u32,
        /// A negated errno, or 0.
        error: i32,
        unique: u64,
    }
);

layout!(
    /// The first 20 bytes of `fuse_init_in`; those before 7.36 end after `flags`.
    InitIn, 20, {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        flags2: u32,
    }
);

layout!(
    /// `fuse_init_out`. Its last 32 bytes were unused in older versions.
    InitOut, 64, {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
        max_background: u16,
        congestion_threshold: u16,
        max_write: u32,
        time_gran: u32,
        max_pages: u16,
        map_alignment: u16,
        flags2: u32,
        max_stack_depth: u32,
        request_timeout: u16,
        unused: u16,
        unused_1: u32,
        unused_2: u64,
        unused_3: u64,
    }
);

layout!(
    /// `fuse_attr`.
    Attr, 88, {
        ino: u64,
        size: u64,
        /// Of 512 bytes.
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atimensec: u32,
        mtimensec: u32,
        ctimensec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }
);

layout!(
    /// What `fuse_entry_out` has before its `fuse_attr`.
    EntryHead, 40, {
        /// 0: there is no such name.
        nodeid: u64,
        generation: u64,
        /// Seconds for which the name may be cached.
        entry_valid: u64,
        /// Seconds for which the attributes may be cached.
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
    }
);

layout!(
    /// What `fuse_attr_out` has before its `fuse_attr`.
    AttrHead, 16, {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
    }
);

layout!(
    /// `fuse_read_in`: of READ, READDIR and READDIRPLUS.
    ReadIn, 40, {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }
);

layout!(
    /// `fuse_kstatfs`.
    StatfsOut, 80, {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare_1: u64,
        spare_2: u64,
        spare_3: u64,
    }
);

layout!(
    /// What `fuse_dirent` has before the name.
    DirentHead, 24, {
        ino: u64,
        /// Where the listing goes on behind this entry.
        off: u64,
        namelen: u32,
        /// A [`file_type`].
        kind: u32,
    }
);

layout!(
    /// `fuse_interrupt_in`.
    InterruptIn, 8, {
        /// The number of the request that somebody no longer waits for patiently.
        unique: u64,
    }
);

impl InitIn {
    /// As [`decode`](Self::decode), also of the short form.
    pub(super) fn decode_any(bytes: &[u8]) -> Option<Self> {
        let mut padded = [0; Self::SIZE];
        let present = bytes.len().min(Self::SIZE);
        padded[..present].copy_from_slice(&bytes[..present]);
        Self::decode(&padded).filter(|_| bytes.len() >= SHORT_INIT)
    }

    /// All capabilities that are offered.
    pub(super) fn capabilities(&self) -> u64 {
        let low = u64::from(self.flags);
        if low & capability::INIT_EXT == 0 { low } else { low | u64::from(self.flags2) << 32 }
    }
}

/// Bytes of `fuse_init_in` before 7.36.
const SHORT_INIT: usize = 16;

/// A name in the body of a request: all bytes before the first zero, which must be there.
pub(super) fn name(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|byte| *byte == 0)?;
    Some(&body[..end])
}

/// Entries of a listing are padded to this.
pub(super) const DIRENT_ALIGN: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes that Linux 6.18 sends for a LOOKUP of `bin` in inode 1, on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn requests_are_read() {
        let bytes = b"\x2c\0\0\0\x01\0\0\0\x06\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\
                      \xe8\x03\0\0\x64\0\0\0\x2a\0\0\0\0\0\0\0bin\0";
        let header = InHeader::decode(bytes).unwrap();
        let expected = InHeader {
            len: 44,
            opcode: opcode::LOOKUP,
            unique: 6,
            nodeid: 1,
            uid: 1000,
            gid: 100,
            pid: 42,
            ..InHeader::default()
        };
        assert_eq!(header, expected);
        assert_eq!(name(&bytes[InHeader::SIZE..]), Some(&b"bin"[..]));

        let read = b"\0\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x80\0\0\0\0\0\0";
        let read = ReadIn::decode(read).unwrap();
        assert_eq!((read.offset, read.size, read.flags), (1 << 20, 128 << 10, 0x8000));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn answers_have_the_kernels_bytes() {
        let header = OutHeader { len: 16, error: -38, unique: 6 };
        assert_eq!(header.encode(), *b"\x10\0\0\0\xda\xff\xff\xff\x06\0\0\0\0\0\0\0");
        let entry = EntryHead { nodeid: 5, entry_valid: 1, attr_valid: 2, ..EntryHead::default() };
        let mut expected = [0; EntryHead::SIZE];
        (expected[0], expected[16], expected[24]) = (5, 1, 2);
        assert_eq!(entry.encode(), expected);
        let out =
            InitOut { major: 7, max_background: 128, max_write: 4096, flags2: 0x80, ..InitOut::default() };
        let mut expected = [0; InitOut::SIZE];
        (expected[0], expected[16], expected[21], expected[32]) = (7, 128, 16, 0x80);
        assert_eq!(out.encode(), expected);
    }

    #[test]
    fn init_of_old_and_new_kernels() {
        let new = InitIn { major: 7, minor: 45, max_readahead: 1, flags: 1 << 30 | 1, flags2: 0x80 };
        let bytes = new.encode();
        assert_eq!(InitIn::decode_any(&bytes), Some(new));
        assert_eq!(new.capabilities(), 1 << 39 | 1 << 30 | 1);
        let old = InitIn::decode_any(&bytes[..16]).unwrap();
        assert_eq!(old, InitIn { flags2: 0, ..new });
        assert_eq!(InitIn::decode_any(&bytes[..15]), None);
        let silent = InitIn { flags: 1, ..new };
        assert_eq!(silent.capabilities(), 1, "without the extension the second word means nothing");
    }

    #[test]
    fn names_end_with_a_zero() {
        for (body, expected) in [
            (&b"a\0"[..], Some(&b"a"[..])),
            (b"\0", Some(b"")),
            (b"a\0b\0", Some(b"a")),
            (b"a", None),
            (b"", None),
        ] {
            assert_eq!(name(body), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            macro_rules! check {
                ($($kind:ident),*) => {$(
                    match $kind::decode(&bytes) {
                        Some(message) => prop_assert_eq!(&message.encode()[..], &bytes[..$kind::SIZE]),
                        None => prop_assert!(bytes.len() < $kind::SIZE),
                    }
                )*};
            }
            check!(InHeader, OutHeader, InitIn, InitOut, Attr, EntryHead, AttrHead, ReadIn, StatfsOut,
                DirentHead, InterruptIn);
        }
    }
}
