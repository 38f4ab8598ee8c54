//! What Nix has registered about store paths: the text of `nix-store --dump-db PATH…`.
//!
//! For each path its lines are: the path, the SHA-256 of its NAR in hexadecimal digits, the NAR's size, the
//! deriver or nothing, the number of references, and each reference (`libstore/store-api.cc`,
//! `makeValidityRegistration`).

use seed_format::{Digest, StorePath};

/// Most references that a path is believed to have.
const MAX_REFERENCES: usize = 1 << 20;

/// One path's registration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) path: StorePath,
    pub(crate) nar_hash: Digest,
    pub(crate) nar_size: u64,
    pub(crate) references: Vec<StorePath>,
}

/// Reads all registrations of a text; `None` if it is not of this format.
pub(crate) fn parse(text: &str) -> Option<Vec<Registration>> {
    let mut lines = text.lines();
    let mut registrations = Vec::new();
    while let Some(path) = lines.next() {
        let path = path.parse().ok()?;
        let nar_hash = format!("sha256:{}", lines.next()?).parse().ok()?;
        let nar_size = lines.next()?.parse().ok()?;
        let _deriver = lines.next()?;
        let count: usize = lines.next()?.parse().ok().filter(|count| *count <= MAX_REFERENCES)?;
        let references: Vec<StorePath> =
            lines.by_ref().take(count).map_while(|line| line.parse().ok()).collect();
        if references.len() != count {
            return None;
        }
        registrations.push(Registration { path, nar_hash, nar_size, references });
    }
    Some(registrations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/00000000000000000000000000000001-a";
    const B: &str = "/nix/store/00000000000000000000000000000002-b";

    #[test]
    fn reads_what_nix_writes() {
        let hash = Digest::of(b"x").hex();
        let text = format!("{A}\n{hash}\n120\n{B}.drv\n2\n{A}\n{B}\n{B}\n{hash}\n96\n\n0\n");
        let registration = |path: &str, nar_size, references: &[&str]| Registration {
            path: path.parse().unwrap(),
            nar_hash: Digest::of(b"x"),
            nar_size,
            references: references.iter().map(|path| path.parse().unwrap()).collect(),
        };
        assert_eq!(parse(&text).unwrap(), [registration(A, 120, &[A, B]), registration(B, 96, &[])]);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn refuses_all_else() {
        let hash = Digest::of(b"x").hex();
        for text in [
            "warning: something\n".to_owned(),
            format!("{A}\n"),
            format!("{A}\nabc\n1\n\n0\n"),
            format!("{A}\n{hash}\nmany\n\n0\n"),
            format!("{A}\n{hash}\n1\n\n1\n"),
            format!("{A}\n{hash}\n1\n\n2\n{B}\nno path\n"),
            format!("{A}\n{hash}\n1\n\n99999999999\n"),
        ] {
            assert_eq!(parse(&text), None, "{text}");
        }
    }
}
