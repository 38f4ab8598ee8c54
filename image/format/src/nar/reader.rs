use std::io::{self, Read};

use super::{MAGIC, padding};
use crate::entry::{EntryError, MAX_NAME_LEN, MAX_TARGET_LEN, check_name, check_target};
use crate::padded::Padded;

/// What a [`Reader`] accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most directories inside one another.
    pub depth: usize,
    /// Most nodes: directories, files and links together.
    pub nodes: u64,
    /// Largest regular file, in bytes.
    pub file_size: u64,
}

impl Default for Limits {
    /// Enough for every store path that a Linux file system can hold.
    fn default() -> Self {
        Self { depth: 4096, nodes: 1 << 32, file_size: crate::entry::MAX_FILE_SIZE }
    }
}

/// What a NAR says next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A directory begins.
    Directory,
    /// An entry of the innermost directory; its node follows.
    Entry {
        /// The entry's name.
        name: Vec<u8>,
    },
    /// The innermost directory ends.
    EndDirectory,
    /// A symbolic link.
    Symlink {
        /// What the link holds.
        target: Vec<u8>,
    },
    /// A regular file; [`Reader`] gives its contents as [`Read`] until the next event is asked for.
    Regular {
        /// Bytes of its contents.
        size: u64,
        /// Whether it has the executable bit.
        executable: bool,
    },
}

/// Why bytes are not a NAR.
#[derive(Debug, thiserror::Error)]
pub enum NarError {
    /// The source failed, or ended too early.
    #[error("the NAR cannot be read")]
    Io(#[from] io::Error),
    /// The NAR has another token than its place asks for.
    #[error("the NAR is malformed: {expected} expected")]
    Syntax {
        /// What should have come.
        expected: &'static str,
    },
    /// An entry has a name that no file can have.
    #[error("the NAR has a bad entry or link")]
    Entry(#[from] EntryError),
    /// The names of a directory do not ascend strictly.
    #[error("the names of a directory in the NAR do not ascend")]
    Order,
    /// The padding of a token is not zero.
    #[error("the NAR has padding that is not zero")]
    Padding,
    /// The NAR goes beyond one of the [`Limits`].
    #[error("the NAR has {what} beyond the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Reads a NAR event by event, in memory bounded by its [`Limits`].
///
/// Only the canonical form is accepted: the one that [`super::Writer`] writes.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    limits: Limits,
    state: State,
    /// The last name of each open directory.
    open: Vec<Vec<u8>>,
    nodes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Magic,
    Node,
    /// In a regular file's contents.
    Contents(Padded),
    /// An entry or the end of the innermost directory.
    Entry,
    Done,
}

/// Longest of the format's own words.
const WORD: usize = 16;

impl<R: Read> Reader<R> {
    /// Reads a NAR from `source`, which should be buffered.
    pub fn new(source: R, limits: Limits) -> Self {
        Self { source, limits, state: State::Magic, open: Vec::new(), nodes: 0 }
    }

    /// The next event, or `None` after the last. What was left of a file's contents is skipped.
    pub fn next_event(&mut self) -> Result<Option<Event>, NarError> {
        if let State::Contents(mut contents) = self.state {
            if !contents.skip(&mut self.source)? {
                return Err(NarError::Padding);
            }
            self.end_node()?;
        }
        if self.state == State::Magic {
            self.word(MAGIC, "the magic \"nix-archive-1\"")?;
            self.state = State::Node;
        }
        match self.state {
            State::Node => self.node().map(Some),
            State::Entry => self.entry().map(Some),
            State::Magic | State::Contents(_) | State::Done => Ok(None),
        }
    }

    /// The source, at the byte behind the NAR once [`Reader::next_event`] gave `None`.
    pub fn into_inner(self) -> R {
        self.source
    }

    fn node(&mut self) -> Result<Event, NarError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(NarError::Limit { what: "nodes", limit: self.limits.nodes });
        }
        self.word(b"(", "\"(\"")?;
        self.word(b"type", "\"type\"")?;
        match self.token(WORD, "a node type")?.as_slice() {
            b"directory" => {
                if self.open.len() >= self.limits.depth {
                    return Err(NarError::Limit {
                        what: "nested directories",
                        limit: self.limits.depth as u64,
                    });
                }
                self.open.push(Vec::new());
                self.state = State::Entry;
                Ok(Event::Directory)
            }
            b"symlink" => {
                self.word(b"target", "\"target\"")?;
                let target = self.token(MAX_TARGET_LEN, "a link target")?;
                check_target(&target)?;
                self.end_node()?;
                Ok(Event::Symlink { target })
            }
            b"regular" => self.regular(),
            _ => Err(NarError::Syntax { expected: "a node type" }),
        }
    }

    fn regular(&mut self) -> Result<Event, NarError> {
        let expected = "\"executable\" or \"contents\"";
        let mut word = self.token(WORD, expected)?;
        let executable = word == b"executable";
        if executable {
            self.word(b"", "an empty token")?;
            word = self.token(WORD, expected)?;
        }
        if word != b"contents" {
            return Err(NarError::Syntax { expected });
        }
        let size = self.number()?;
        if size > self.limits.file_size {
            return Err(NarError::Limit { what: "a file", limit: self.limits.file_size });
        }
        self.state = State::Contents(Padded::new(size, padding(size)));
        Ok(Event::Regular { size, executable })
    }

    fn entry(&mut self) -> Result<Event, NarError> {
        let expected = "\"entry\" or \")\"";
        match self.token(WORD, expected)?.as_slice() {
            b")" => {
                self.open.pop();
                self.after_node()?;
                Ok(Event::EndDirectory)
            }
            b"entry" => {
                self.word(b"(", "\"(\"")?;
                self.word(b"name", "\"name\"")?;
                let name = self.token(MAX_NAME_LEN, "a name")?;
                if name.contains(&b'/') {
                    return Err(NarError::Syntax { expected: "a name without a slash" });
                }
                check_name(&name)?;
                self.word(b"node", "\"node\"")?;
                let last = self.open.last_mut().ok_or(NarError::Syntax { expected })?;
                if !last.is_empty() && name <= *last {
                    return Err(NarError::Order);
                }
                last.clone_from(&name);
                self.state = State::Node;
                Ok(Event::Entry { name })
            }
            _ => Err(NarError::Syntax { expected }),
        }
    }

    /// After the last token but one of a node that is not a directory.
    fn end_node(&mut self) -> Result<(), NarError> {
        self.word(b")", "\")\"")?;
        self.after_node()
    }

    fn after_node(&mut self) -> Result<(), NarError> {
        self.state = if self.open.is_empty() {
            State::Done
        } else {
            self.word(b")", "\")\"")?;
            State::Entry
        };
        Ok(())
    }

    fn word(&mut self, word: &[u8], expected: &'static str) -> Result<(), NarError> {
        if self.token(WORD, expected)? == word { Ok(()) } else { Err(NarError::Syntax { expected }) }
    }

    fn token(&mut self, limit: usize, expected: &'static str) -> Result<Vec<u8>, NarError> {
        let len = usize::try_from(self.number()?)
            .ok()
            .filter(|len| *len <= limit)
            .ok_or(NarError::Syntax { expected })?;
        let mut token = vec![0; len];
        self.source.read_exact(&mut token)?;
        self.zeros(padding(len as u64))?;
        Ok(token)
    }

    fn number(&mut self) -> Result<u64, NarError> {
        let mut bytes = [0; 8];
        self.source.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn zeros(&mut self, count: usize) -> Result<(), NarError> {
        let mut bytes = [0; 7];
        self.source.read_exact(&mut bytes[..count])?;
        if bytes == [0; 7] { Ok(()) } else { Err(NarError::Padding) }
    }
}

/// The contents of the regular file that was the last event; nothing after any other event.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Contents(contents) => contents.read(&mut self.source, buf),
            _ => Ok(0),
        }
    }
}
