//! The words in which mount(8) speaks to the program that mounts.
//!
//! `/sbin/mount.fuse3` runs `seed-mount REF DIR -o OPTION,…`. Where `/sbin/mount.fuse.seed-mount` is a link to
//! this program, mount(8) runs that instead: `REF DIR [-sfnv] [-N NAMESPACE] [-o OPTION,…] [-t TYPE]`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What mount(8) and fstab(5) have for every file system. A seed is read-only, without devices and
/// set-user-ID programs, and its times never change: all of these mean nothing here. `noexec` would, and
/// cannot be had.
const GENERIC: [&str; 33] = [
    "ro",
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nogroup",
    "_netdev",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "sync",
    "async",
    "dirsync",
    "silent",
    "loud",
];

/// Writes what mount(8) passes as the long options of this program.
pub(super) fn translate(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.peekable();
    let helper = arguments.peek().is_some_and(|program| is_helper(program));
    let mut translated = Vec::new();
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default();
        let list = match text.strip_prefix("-o") {
            Some("") => arguments.next_if(|next| next.to_str().is_some()),
            Some(list) => Some(OsString::from(list)),
            None => None,
        };
        match list.as_deref().and_then(OsStr::to_str) {
            Some(list) => translated.extend(list.split(',').filter_map(long_option)),
            None if helper && is_flags(text) => translated.extend(text.chars().filter_map(flag)),
            None => translated.push(argument),
        }
    }
    translated
}

/// Whether mount(8) took this program for the helper of a type.
fn is_helper(program: &OsStr) -> bool {
    Path::new(program).file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("mount."))
}

/// `a` is `--a`, and `b=c` is `--b=c`.
fn long_option(option: &str) -> Option<OsString> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    // `rw` alone is mount(8)'s, which takes the value of `rw=DIR` away as well; without it that is ours.
    if GENERIC.contains(&option)
        || name.starts_with("x-")
        || name.starts_with("X-")
        || name == "comment"
        || name.is_empty()
    {
        return None;
    }
    let name = name.replace('_', "-");
    let separator = if option.contains('=') { "=" } else { "" };
    Some(format!("--{name}{separator}{value}").into())
}

fn is_flags(text: &str) -> bool {
    text.strip_prefix('-')
        .is_some_and(|flags| !flags.is_empty() && flags.chars().all(|flag| "sfnv".contains(flag)))
}

/// Sloppy options and a missing mtab mean nothing here.
fn flag(flag: char) -> Option<OsString> {
    match flag {
        'f' => Some("--fake".into()),
        'v' => Some("--verbose".into()),
        _ => None,
    }
}
