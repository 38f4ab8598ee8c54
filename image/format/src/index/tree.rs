//! The layers' entries, put together to one tree.

use crate::entry::{DIRECTORY_MODE, Entry, Kind};
use crate::erofs::{Node, NodeId, NodeKind, Tree};

use super::build::BuildError;

/// Where a regular file was placed: its layer, and its first block in that layer's virtual blob.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) layer: u16,
    pub(super) block: u32,
}

/// One entry, its layer's number, and where its bytes are, if it has any.
pub(super) struct Item<'a> {
    pub(super) entry: &'a Entry,
    pub(super) placed: Placed,
}

/// Makes a tree of `items`, which come in the order of their layers.
///
/// A directory may come more than once: the last one gives the mode, as when the layers are unpacked one
/// over the other. Nothing else may. A directory that no entry names but that has entries below it is
/// made with mode 0555.
pub(super) fn assemble<'a>(mut items: Vec<Item<'a>>) -> Result<Tree<'a>, BuildError> {
    // Stable, so entries of one path stay in the order of the layers.
    items.sort_by(|a, b| by_components(&a.entry.path).cmp(by_components(&b.entry.path)));

    let mut tree = Tree { nodes: vec![directory()], devices: Vec::new() };
    // The path of the last entry, as the nodes of its components; the first is the root.
    let mut open: Vec<(&[u8], NodeId)> = vec![(b"", 0)];
    for Item { entry, placed } in &items {
        let mut depth = 0;
        let mut fresh = false;
        for name in components(&entry.path) {
            depth += 1;
            if open.get(depth).is_some_and(|(open_name, _)| *open_name == name) {
                continue;
            }
            open.truncate(depth);
            let (_, parent) = open[depth - 1];
            open.push((name, add_child(&mut tree, parent, name, entry)?));
            fresh = true;
        }
        open.truncate(depth + 1);
        let node = &mut tree.nodes[open[depth].1 as usize];
        match (&entry.kind, &node.kind) {
            (Kind::Directory, NodeKind::Directory { .. }) => node.mode = entry.mode,
            _ if !fresh => return Err(BuildError::Duplicate { path: entry.path.clone() }),
            (kind, _) => *node = Node { mode: entry.mode, kind: leaf(kind, *placed) },
        }
    }
    Ok(tree)
}

/// The bytes of a path such that comparing them compares component by component: a slash counts as less
/// than all that may be in a name.
fn by_components(path: &[u8]) -> impl Iterator<Item = u8> {
    path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte })
}

/// The components of a path; none for the root's.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

fn directory<'a>() -> Node<'a> {
    Node { mode: DIRECTORY_MODE, kind: NodeKind::Directory { children: Vec::new() } }
}

fn leaf(kind: &Kind, placed: Placed) -> NodeKind<'_> {
    match kind {
        Kind::Directory => NodeKind::Directory { children: Vec::new() },
        Kind::Regular { size } => {
            NodeKind::Regular { size: *size, device: placed.layer, block: placed.block }
        }
        Kind::Symlink { target } => NodeKind::Symlink { target },
    }
}

/// Adds a directory, which the caller may replace. Names come in order, so the children stay sorted.
fn add_child<'a>(
    tree: &mut Tree<'a>,
    parent: NodeId,
    name: &'a [u8],
    entry: &Entry,
) -> Result<NodeId, BuildError> {
    let child = NodeId::try_from(tree.nodes.len()).map_err(|_| BuildError::Entries)?;
    match &mut tree.nodes[parent as usize].kind {
        NodeKind::Directory { children } => children.push((name, child)),
        _ => return Err(BuildError::NotADirectory { path: entry.path.clone() }),
    }
    tree.nodes.push(directory());
    Ok(child)
}
