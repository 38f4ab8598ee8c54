//! `docs/format.md` says what the code does: its numbers are those of the code, and what is decoded by its
//! tables is what the reader of the index reads.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use seed_format::index::{self, Index};
use seed_format::{entry, erofs, store_path, toc, trace};
use seed_image::manifest::{self, annotation, media_type};
use seed_image::seed::{self, label};

fn repository_file(path: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page() -> String {
    String::from_utf8(repository_file("docs/format.md")).unwrap()
}

/// The cells of the table whose first header cell is `title`, without header and rule.
fn table(page: &str, title: &str) -> Vec<Vec<String>> {
    let header = format!("| {title} |");
    let lines = page.lines().skip_while(|line| !line.starts_with(&header)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "there is no table {title:?}");
    rows
}

#[test]
fn limits_are_those_of_the_code() {
    let mut expected = BTreeMap::from([
        ("bytes of a manifest or configuration", manifest::MAX_MANIFEST as u64),
        ("layers of a manifest", manifest::MAX_LAYERS as u64),
        ("bytes of an index layer's blob", seed::MAX_INDEX_LAYER),
        ("bytes of an index", index::MAX_INDEX_LEN),
        ("layers of an index", index::MAX_LAYERS.into()),
        ("bytes of a layer's blob", index::MAX_LAYER_LEN),
        ("chunks", index::MAX_CHUNKS.into()),
        ("bytes of a chunk", index::MAX_CHUNK_LEN.into()),
        ("bytes of the frame of an empty chunk", index::max_blob_len(0).into()),
        ("bytes of the frame of a chunk of 1 MiB", index::max_blob_len(1 << 20).into()),
        ("store paths", index::MAX_PATHS.into()),
        ("references", index::MAX_REFERENCES.into()),
        ("bytes of a file", entry::MAX_FILE_SIZE),
        ("bytes of a name", entry::MAX_NAME_LEN as u64),
        ("bytes of a link's target", entry::MAX_TARGET_LEN as u64),
        ("bytes of the name of a store path, without hash part and dash", store_path::MAX_NAME_LEN as u64),
        ("bytes of a TOC, compressed or not", toc::MAX_TOC_LEN),
        ("entries of a TOC", toc::MAX_ENTRIES as u64),
        ("bytes of a trace", trace::MAX_TRACE_LEN as u64),
        ("bytes of a trace, decompressed", trace::MAX_BODY_LEN as u64),
        ("runs of a trace", trace::MAX_RUNS as u64),
        ("bytes of a trace's target", trace::MAX_TARGET_LEN as u64),
        ("bytes of a bundle", trace::MAX_BUNDLE_LEN),
    ]);
    for row in table(&page(), "limit") {
        let value = expected.remove(row[0].as_str()).unwrap_or_else(|| panic!("{:?} is not known", row[0]));
        assert_eq!(row[1], value.to_string(), "{}", row[0]);
    }
    assert!(expected.is_empty(), "not in the page: {expected:?}");
}

#[test]
fn names_are_those_of_the_code() {
    let page = page();
    let version = format!("version of this format: `{}`", seed::FORMAT_VERSION);
    let names = [
        media_type::MANIFEST,
        media_type::CONFIG,
        media_type::LAYER_ZSTD,
        annotation::SEED_INDEX,
        label::VERSION,
        label::SYSTEM,
        label::NIX,
        label::NIX_VERSION,
        label::NIX_FEATURES,
        label::SHELL,
        label::TARGETS,
        label::FLAKE_LOCK,
        label::COMPRESSOR,
        seed::INDEX_PATH,
        trace::MEDIA_TYPE,
        annotation::TRACE_TARGET,
        trace::BUNDLE_MEDIA_TYPE,
        annotation::TRACE_BLOB,
        annotation::TRACE_BUNDLE,
        annotation::TRACE_RECORDED,
        toc::PREFIXES[0],
        toc::PREFIXES[1],
    ];
    for name in names {
        assert!(page.contains(&format!("`{name}")), "the page does not name {name}");
    }
    assert!(page.contains(&version), "the page is not of {version}");
    assert!(page.contains(&format!("the last {} bytes of the blob", toc::FOOTER_LEN)));
    let limits = seed_format::assign::Limits::default();
    let (target, layers) = (limits.target_size >> 20, limits.layers);
    assert!(
        page.contains(&format!("`T` is {target} MiB; if that gives the image more than {layers} layers"))
    );
}

/// A record as the page describes it.
struct Record(BTreeMap<String, (usize, usize)>);

impl Record {
    /// Reads the table of a record of `len` bytes, whose fields must follow one another without a gap.
    fn of(page: &str, name: &str, len: usize) -> Self {
        let mut fields = BTreeMap::new();
        let mut end = 0;
        for row in table(page, &format!("{name}: offset")) {
            let number = |text: &str| match text.strip_prefix("0x") {
                Some(hex) => usize::from_str_radix(hex, 16).unwrap(),
                None => text.parse().unwrap(),
            };
            let (offset, size) = (number(&row[0]), number(&row[1]));
            assert_eq!(offset, end, "{name}: {} does not follow the field before it", row[2]);
            end = offset + size;
            fields.insert(row[2].clone(), (offset, size));
        }
        assert_eq!(end, len, "length of {name}");
        Self(fields)
    }

    fn bytes<'a>(&self, record: &'a [u8], field: &str) -> &'a [u8] {
        let (offset, size) = self.0[field];
        &record[offset..offset + size]
    }

    fn number(&self, record: &[u8], field: &str) -> u64 {
        let mut number = [0; 8];
        let bytes = self.bytes(record, field);
        number[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(number)
    }

    fn size(&self, record: &[u8], field: &str) -> usize {
        usize::try_from(self.number(record, field)).unwrap()
    }
}

fn golden() -> Vec<u8> {
    repository_file("image/format/tests/golden/small.index")
}

#[test]
fn the_tables_can_be_read_by_the_page() {
    let (page, file) = (page(), golden());
    let open = Index::open(file.as_slice()).unwrap();
    let start = open.image().superblock().len;

    let header = Record::of(&page, "header", 128);
    let head = &file[start..];
    assert_eq!(header.bytes(head, "magic"), index::MAGIC);
    assert_eq!(header.number(head, "version"), u64::from(index::VERSION));
    assert_eq!(header.number(head, "header_len"), 128);
    assert_eq!(header.number(head, "file_len"), file.len() as u64);
    let offsets: Vec<usize> = header
        .bytes(head, "offsets")
        .chunks_exact(8)
        .map(|number| usize::try_from(u64::from_le_bytes(number.try_into().unwrap())).unwrap())
        .collect();
    let [layers, chunks, digests, paths, references, order, names] = offsets[..] else {
        panic!("{offsets:?}")
    };

    let layer = Record::of(&page, "layer", 64);
    assert_eq!(header.size(head, "layer_count"), open.layers().len());
    for (n, expected) in open.layers().iter().enumerate() {
        let record = &file[layers + 64 * n..];
        assert_eq!(layer.bytes(record, "digest"), expected.digest.as_bytes());
        assert_eq!(layer.number(record, "size"), expected.size);
        assert_eq!(layer.number(record, "virtual_size"), expected.virtual_size);
        assert_eq!(layer.number(record, "first_chunk"), u64::from(expected.chunks.start));
        assert_eq!(layer.size(record, "chunk_count"), expected.chunks.len());
    }

    let chunk = Record::of(&page, "chunk", 32);
    assert_eq!(header.number(head, "chunk_count"), u64::from(open.chunk_count()));
    for id in 0..open.chunk_count() {
        let expected = open.chunk(id).unwrap();
        let record = &file[chunks + 32 * id as usize..];
        assert_eq!(chunk.number(record, "virtual_offset"), expected.virtual_offset);
        assert_eq!(chunk.number(record, "blob_offset"), expected.blob_offset);
        assert_eq!(chunk.number(record, "len"), u64::from(expected.len));
        assert_eq!(chunk.number(record, "blob_len"), u64::from(expected.blob_len));
        assert_eq!(chunk.number(record, "file"), u64::from(expected.file));
        assert_eq!(file[digests + 32 * id as usize..][..32], *expected.digest.as_bytes());
    }

    let path = Record::of(&page, "path", 72);
    assert_eq!(header.size(head, "path_count"), open.paths().len());
    for (n, expected) in open.paths().enumerate() {
        let record = &file[paths + 72 * n..];
        assert_eq!(path.bytes(record, "nar_hash"), expected.nar_hash.as_bytes());
        assert_eq!(path.number(record, "nar_size"), expected.nar_size);
        assert_eq!(path.number(record, "root"), expected.root.0);
        let name = &file[names + path.size(record, "name_offset")..][..path.size(record, "name_len")];
        assert_eq!(name, expected.base_name.as_bytes());
        assert_eq!(path.number(record, "first_chunk"), u64::from(expected.chunks.start));
        assert_eq!(path.size(record, "chunk_count"), expected.chunks.len());
        let first = references + 4 * path.size(record, "first_reference");
        let numbers = file[first..][..4 * path.size(record, "reference_count")].chunks_exact(4);
        let numbers = numbers.map(|number| u32::from_le_bytes(number.try_into().unwrap()) as usize);
        assert!(numbers.eq(open.references(n)), "references of {}", expected.base_name);
    }
    let order: Vec<_> = file[order..names].chunks_exact(4).map(|n| n[0]).take(open.paths().len()).collect();
    let by_chunk = |n: &u8| open.path(usize::from(*n)).unwrap().chunks.start;
    assert!(order.is_sorted_by_key(by_chunk), "{order:?}");
    assert_eq!(header.size(head, "names_len"), file.len() - names);
    assert_eq!(
        header.size(head, "reference_count"),
        (0..open.paths().len()).map(|n| open.references(n).len()).sum::<usize>()
    );
}

#[test]
fn the_tree_can_be_read_by_the_page() {
    let (page, file) = (page(), golden());
    let open = Index::open(file.as_slice()).unwrap();
    let superblock = Record::of(&page, "superblock", 128);
    let record = &file[1024..];
    assert_eq!(superblock.number(record, "magic"), 0xe0f5_e1e2);
    assert_eq!(superblock.number(record, "root_nid"), open.root().0);
    assert_eq!(superblock.number(record, "inos"), open.inode_count());
    assert_eq!(superblock.size(record, "blocks") * 4096, open.image().superblock().len);
    assert_eq!(superblock.size(record, "extra_devices"), open.layers().len());
    assert_eq!(superblock.number(record, "build_time"), erofs::MTIME);
    assert_eq!(superblock.bytes(record, "volume_name"), b"nix-seed\0\0\0\0\0\0\0\0");

    let device = Record::of(&page, "device", 128);
    for (n, layer) in open.layers().iter().enumerate() {
        let slot = &file[128 * (superblock.size(record, "devt_slotoff") + n)..];
        assert_eq!(device.bytes(slot, "tag"), layer.digest.hex().as_bytes());
        assert_eq!(device.number(slot, "blocks") * 4096, layer.virtual_size);
    }

    let compact = Record::of(&page, "compact", 32);
    let at = |nid: index::Nid| usize::try_from(nid.0 * 32).unwrap();
    let passwd = open.resolve(b"etc/passwd").unwrap().unwrap();
    let record = &file[at(passwd.nid)..];
    assert_eq!(compact.number(record, "format"), 4 << 1, "a chunk-based file");
    assert_eq!(compact.number(record, "mode"), 0o100_444);
    assert_eq!(compact.number(record, "nlink"), 1);
    assert_eq!(compact.number(record, "size"), passwd.size);
    assert_eq!(compact.number(record, "union"), 0x20, "a chunk of one block");
    let chunk_index = Record::of(&page, "chunk index", 8);
    let extent = open.extent(&passwd).unwrap().unwrap();
    assert_eq!(chunk_index.number(&record[32..], "device_id"), u64::from(extent.layer) + 1);
    assert_eq!(chunk_index.number(&record[32..], "blkaddr") * 4096, extent.offset);

    let dirent = Record::of(&page, "directory entry", 12);
    let etc = open.resolve(b"etc").unwrap().unwrap();
    assert_eq!(compact.number(&file[at(etc.nid)..], "format"), 2 << 1, "an inline directory");
    let block = &file[at(etc.nid) + 32..][..compact.size(&file[at(etc.nid)..], "size")];
    let names = dirent.size(block, "nameoff");
    assert_eq!(names / 12, 3, ". .. passwd");
    let last = &block[names - 12..];
    assert_eq!((dirent.number(last, "nid"), dirent.number(last, "file_type")), (passwd.nid.0, 1));
    assert_eq!(&block[dirent.size(last, "nameoff")..], b"passwd");

    let file = repository_file("fuzz/corpus/index/large");
    let open = Index::open(file.as_slice()).unwrap();
    let mut huge = None;
    open.walk::<index::IndexError>(|_, inode| {
        huge = huge.or((inode.size > u64::from(u32::MAX)).then_some(*inode));
        Ok(())
    })
    .unwrap();
    let huge = huge.unwrap();
    let extended = Record::of(&page, "extended", 64);
    let record = &file[at(huge.nid)..];
    assert_eq!(extended.number(record, "format"), 4 << 1 | 1);
    assert_eq!(extended.number(record, "size"), huge.size);
    assert_eq!((extended.number(record, "mtime"), extended.number(record, "nlink")), (1, 1));
}
