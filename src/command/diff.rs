//! `seed diff`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use seed_format::{Digest, StorePath};
use seed_image::reference::Reference;
use serde::Serialize;

use crate::error::Result;
use crate::gate::{self, Located};
use crate::printer::bytes;
use crate::session::Session;

/// Show which paths, layers and bytes differ between two seeds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  seed diff oci:./seeds:old oci:./seeds:new
  seed diff ghcr.io/acme/app.seed:1 ghcr.io/acme/app.seed:2 --json")]
pub(crate) struct Args {
    /// The one seed
    #[arg(value_name = "A")]
    from: Reference,
    /// The other
    #[arg(value_name = "B")]
    to: Reference,
}

/// What B has and A has not, and the other way round.
#[derive(Debug, Serialize)]
struct Difference {
    from: String,
    to: String,
    paths: Change<StorePath>,
    /// Paths that both have, with other content: whatever made them does not make the same twice.
    changed_paths: Vec<StorePath>,
    layers: Change<Digest>,
    /// Bytes of the layers of B that A has not: what is sent and fetched anew.
    new_bytes: u64,
    /// Bytes of all layers of B.
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Change<T> {
    added: Vec<Item<T>>,
    removed: Vec<Item<T>>,
    same: usize,
}

/// A path with its NAR's size, or a layer with its blob's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Item<T> {
    name: T,
    size: u64,
}

pub(crate) fn run(session: &Session<'_>, args: &Args) -> Result<()> {
    let from = Content::of(&gate::locate(session, &args.from)?)?;
    let to = Content::of(&gate::locate(session, &args.to)?)?;
    session.printer.data(&compare(&from, &to))
}

/// What is compared of a seed.
struct Content {
    reference: String,
    /// The hash and size of each path's NAR.
    paths: BTreeMap<StorePath, (Digest, u64)>,
    layers: BTreeMap<Digest, u64>,
}

impl Content {
    fn of(located: &Located) -> Result<Self> {
        let index = located.index()?;
        Ok(Self {
            reference: located.reference.to_string(),
            paths: index.paths().map(|path| (path.store_path(), (path.nar_hash, path.nar_size))).collect(),
            layers: located.seed.manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect(),
        })
    }
}

fn compare(from: &Content, to: &Content) -> Difference {
    let sizes =
        |content: &Content| content.paths.iter().map(|(path, (_, size))| (path.clone(), *size)).collect();
    let layers = change(&from.layers, &to.layers);
    let changed = |(path, (hash, _)): (&StorePath, &(Digest, u64))| {
        from.paths.get(path).is_some_and(|(before, _)| before != hash).then(|| path.clone())
    };
    Difference {
        from: from.reference.clone(),
        to: to.reference.clone(),
        paths: change(&sizes(from), &sizes(to)),
        changed_paths: to.paths.iter().filter_map(changed).collect(),
        new_bytes: layers.added.iter().map(|layer| layer.size).fold(0, u64::saturating_add),
        bytes: to.layers.values().copied().fold(0, u64::saturating_add),
        layers,
    }
}

fn change<T: Ord + Clone>(from: &BTreeMap<T, u64>, to: &BTreeMap<T, u64>) -> Change<T> {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) = (from.keys().collect(), to.keys().collect());
    let items = |names: BTreeSet<&T>, sizes: &BTreeMap<T, u64>| {
        names.into_iter().map(|name| Item { name: name.clone(), size: sizes[name] }).collect()
    };
    Change {
        added: items(&after - &before, to),
        removed: items(&before - &after, from),
        same: before.intersection(&after).count(),
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, "paths", &self.paths)?;
        for path in &self.changed_paths {
            writeln!(f, "  ! {path} has other content")?;
        }
        show(f, "layers", &self.layers)?;
        write!(f, "bytes   {} new of {}", bytes(self.new_bytes), bytes(self.bytes))
    }
}

fn show<T: fmt::Display>(f: &mut fmt::Formatter<'_>, what: &str, change: &Change<T>) -> fmt::Result {
    let Change { added, removed, same } = change;
    writeln!(f, "{what:<7} {} added, {} removed, {same} the same", added.len(), removed.len())?;
    for (sign, items) in [('-', removed), ('+', added)] {
        for item in items {
            writeln!(f, "  {sign} {} {:>10}", item.name, bytes(item.size))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(paths: &[(u8, &[u8])], layers: &[(&[u8], u64)]) -> Content {
        let path =
            |n: u8| StorePath::from_base_name(&format!("{}-p", char::from(b'0' + n).to_string().repeat(32)));
        Content {
            reference: "oci:x".into(),
            paths: paths.iter().map(|(n, nar)| (path(*n).unwrap(), (Digest::of(nar), 10))).collect(),
            layers: layers.iter().map(|(blob, size)| (Digest::of(blob), *size)).collect(),
        }
    }

    #[test]
    fn paths_layers_and_bytes_are_compared() {
        let from = content(&[(1, b"1"), (2, b"2"), (3, b"3")], &[(b"a", 1), (b"b", 2)]);
        let to = content(&[(2, b"2"), (3, b"other"), (4, b"4")], &[(b"b", 2), (b"c", 40)]);
        let difference = compare(&from, &to);
        let names = |items: &[Item<StorePath>]| {
            items.iter().map(|i| i.name.base_name()[..1].to_owned()).collect::<String>()
        };
        assert_eq!(names(&difference.paths.added), "4");
        assert_eq!(names(&difference.paths.removed), "1");
        assert_eq!(difference.paths.same, 2);
        assert_eq!(difference.changed_paths.len(), 1);
        assert_eq!(difference.layers.added, [Item { name: Digest::of(b"c"), size: 40 }]);
        assert_eq!((difference.new_bytes, difference.bytes), (40, 42));

        let same = compare(&to, &to);
        assert!(
            same.paths.added.is_empty() && same.layers.removed.is_empty() && same.changed_paths.is_empty()
        );
        assert_eq!(same.new_bytes, 0);
    }
}
