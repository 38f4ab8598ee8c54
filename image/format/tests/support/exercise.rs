//! Does to an index all that a reader may do, and asserts what must hold however hostile the index is.
//!
//! Used by the tests and by the fuzz targets.

use seed_format::index::{FileType, ImageError, Index, IndexError, Inode, Nid};

/// Opens `bytes` and, if it can be opened, reads all of it. Gives the number of names seen.
pub fn index(bytes: &[u8]) -> Result<usize, IndexError> {
    let index = Index::open(bytes)?;
    let layers = index.layers();
    for id in 0..index.chunk_count() {
        let chunk = index.chunk(id).expect("ids are counted from 0");
        let layer = &layers[usize::from(chunk.layer)];
        assert!(layer.chunks.contains(&id));
        assert!(chunk.len > 0 && chunk.virtual_range().end <= layer.virtual_size);
        assert!(chunk.blob_len > 0 && chunk.blob_range().end <= layer.size);
        assert_eq!(index.chunks_of(chunk.layer, chunk.virtual_range()), id..id + 1);
        if let Some(path) = index.path_of_chunk(id) {
            assert!(index.path(path).expect("a path's number").chunks.contains(&id));
        }
    }
    for (number, path) in index.paths().enumerate() {
        assert_eq!(index.find_path(path.base_name), Some(number));
        assert_eq!(path.store_path().base_name(), path.base_name);
        assert!(index.references(number).all(|reference| reference < index.paths().len()));
        assert!(path.chunks.clone().all(|id| index.path_of_chunk(id) == Some(number)));
        let _ = index.inode(path.root);
    }
    for layer in 0..=u16::try_from(layers.len()).expect("at most 1024 layers") {
        assert!(index.chunks_of(layer, 0..u64::MAX).end <= index.chunk_count());
    }

    let (mut names, mut found) = (0, 0);
    let walked = index.walk::<IndexError>(|path, inode| {
        names += 1;
        found += usize::from(index.resolve(path)?.is_some_and(|found| found.nid == inode.nid));
        if let Ok(Some(extent)) = index.extent(inode) {
            assert_eq!(extent.len, inode.size);
            let chunks = extent.chunks.clone().map(|id| index.chunk(id).expect("an extent's chunk"));
            let end = chunks.fold(extent.offset, |end, chunk| {
                assert_eq!((chunk.layer, chunk.virtual_offset), (extent.layer, end), "an extent has no gap");
                chunk.virtual_range().end
            });
            assert_eq!(end, extent.offset + extent.len);
        }
        Ok(())
    });
    assert!(names <= 1 + bytes.len() / 13, "{names} names in {} bytes", bytes.len());
    // Binary search and listing agree unless names do not ascend, which the walk finds at the latest.
    assert!(walked.is_err() || found == names, "{found} of {names} names are found");
    assert!(index.check().is_err() || walked.is_ok());
    Ok(names)
}

/// Reads every inode that there may be in an image, and lists it if it is a directory.
pub fn image(bytes: &[u8]) -> Result<(), ImageError> {
    let image = seed_format::erofs::Image::open(&bytes)?;
    let mut room = 20 * bytes.len();
    for nid in (0..bytes.len() as u64 / 32).chain([u64::MAX / 32, u64::MAX]).map(Nid) {
        let Ok(inode) = image.inode(nid) else { continue };
        match inode.kind {
            FileType::Regular => assert_eq!(image.extent(&inode).is_some(), inode.size > 0),
            FileType::Symlink => {
                drop(image.symlink(&inode).map(|target| assert_eq!(target.len() as u64, inode.size)))
            }
            FileType::Directory => list(&image, &inode, &mut room),
        }
    }
    Ok(())
}

/// Lists a directory, as long as there is `room`: many may share their blocks.
fn list(image: &seed_format::erofs::Image<'_>, directory: &Inode, room: &mut usize) {
    let _ = image.parent(directory);
    let mut previous: Option<(&[u8], Nid)> = None;
    for entry in image.read_dir(directory, 0) {
        let Ok(entry) = entry else { break };
        let Some(less) = room.checked_sub(1) else { break };
        *room = less;
        assert!(entry.nid > directory.nid && !entry.name.contains(&b'/') && entry.name.len() <= 255);
        assert!(previous.is_none_or(|(name, nid)| name < entry.name && nid < entry.nid));
        previous = Some((entry.name, entry.nid));
        let _ = image.lookup(directory, entry.name);
        let _ = image.read_dir(directory, entry.next).next();
    }
    let _ = image.lookup(directory, b"no such name");
}

/// Recomputes the checksum of the superblock, so that a changed index gets past it.
pub fn seal(index: &mut [u8]) {
    if let Some(block) = index.get_mut(1024..4096) {
        block[4..8].fill(0);
        let checksum = !crc32c::crc32c(block);
        block[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}
