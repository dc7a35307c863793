//! The credential directory as pure plans: which pair to load, and which file operations, in which
//! order, put a new one in place. A driver lists the directory, asks for a plan and carries it out.
//!
//! The layout is kubelet's (client-go `certificate_store.go`): `PREFIX-current.pem` is a link to the
//! newest `PREFIX-<UTC time>.pem`, which holds chain and key. Unlike kubelet's, a plan never
//! removes what is in use before its successor is in place, never reuses a name, and syncs the
//! directory, so that `PREFIX-current.pem` names a whole pair at every step.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::time::UnixTime;

/// What the driver found in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(pub Vec<Entry>);

/// One directory entry, links not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the directory.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// Anything else: a directory, a pipe, a device.
    Other,
}

impl Listing {
    fn kind(&self, name: &str) -> Option<Kind> {
        self.0.iter().find(|entry| entry.name == name).map(|entry| entry.kind)
    }
}

/// Where a pair may lie, by name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Chain and key in one file.
    Bundle(String),
    /// Chain and key in two.
    Pair {
        /// The chain.
        certificate: String,
        /// The key.
        key: String,
    },
}

/// One operation on the directory. Every name is relative to it, and none is ever replaced but by `Rename`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Create the file (`O_EXCL`, mode 0600) and write chain and key. It must not exist.
    CreateNew {
        /// The file.
        name: String,
    },
    /// Make the file's contents durable (`fsync`).
    Sync {
        /// The file.
        name: String,
    },
    /// Create a symbolic link. It must not exist.
    Symlink {
        /// What it points at.
        target: String,
        /// The link.
        name: String,
    },
    /// Rename, replacing what is there in one step.
    Rename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// Make names durable (`fsync` of the directory).
    SyncDir,
    /// Remove a name.
    Remove {
        /// The name.
        name: String,
    },
}

/// File operations, to be carried out in order; stop at the first that fails, and then [`undo`](Plan::undo).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The operations.
    pub steps: Vec<FileOp>,
}

impl Plan {
    /// What to clean up, as far as that goes, if only the first `done` steps succeeded. Nothing once
    /// the new pair may be found.
    pub fn undo(&self, done: usize) -> Vec<FileOp> {
        let done = self.steps.get(..done).unwrap_or(&self.steps);
        if done.iter().any(|step| matches!(step, FileOp::Rename { .. })) {
            return Vec::new();
        }
        let created = done.iter().rev().filter_map(|step| match step {
            FileOp::CreateNew { name } | FileOp::Symlink { name, .. } => Some(FileOp::Remove { name: name.clone() }),
            FileOp::Sync { .. } | FileOp::Rename { .. } | FileOp::SyncDir | FileOp::Remove { .. } => None,
        });
        created.collect()
    }
}

/// The names in use for one certificate; several can share a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    /// The layout for this prefix, `kubelet-client` or `kubelet-server` for a kubelet's.
    ///
    /// # Errors
    /// [`StoreError::Prefix`] if it is empty or would leave the directory.
    pub fn new(prefix: impl Into<String>) -> Result<Self, StoreError> {
        let prefix = prefix.into();
        let fits = !prefix.is_empty() && !prefix.starts_with('.') && !prefix.contains(['/', '\\', '\0']);
        if fits { Ok(Self { prefix }) } else { Err(StoreError::Prefix { prefix }) }
    }

    /// The link to the pair in use.
    pub fn current(&self) -> String {
        format!("{}-current.pem", self.prefix)
    }

    /// Where to look for a pair, best first: the pair in use, one whose update was cut short just
    /// before it came into use, and the fixed names of older installations.
    pub fn sources(&self, listing: &Listing) -> Vec<Source> {
        let bundle = |name| listing.kind(name).is_some().then(|| Source::Bundle(name.into()));
        let (certificate, key) = (format!("{}.crt", self.prefix), format!("{}.key", self.prefix));
        let pair = listing.kind(&certificate).is_some() && listing.kind(&key).is_some();
        let pair = pair.then_some(Source::Pair { certificate, key });
        [bundle(&self.current()), bundle(&self.updated()), pair].into_iter().flatten().collect()
    }

    /// Whether this directory is fit for updates.
    ///
    /// # Errors
    /// [`StoreError::NotALink`] if something that is not ours has the name of a link.
    pub fn check(&self, listing: &Listing) -> Result<(), StoreError> {
        let fits = |name: &String| listing.kind(name).is_none_or(|kind| kind == Kind::Link);
        match [self.current(), self.updated()].into_iter().find(|name| !fits(name)) {
            Some(name) => Err(StoreError::NotALink { name }),
            None => Ok(()),
        }
    }

    /// How to put a new pair in place.
    ///
    /// # Errors
    /// [`StoreError::NotALink`] if something that is not ours has the name of a link; nothing is touched.
    pub fn update(&self, listing: &Listing, now: UnixTime) -> Result<Plan, StoreError> {
        self.check(listing)?;
        let (current, updated) = (self.current(), self.updated());
        let name = self.unused_name(listing, now);
        // What an update cut short left there may lead to the only pair: it is replaced, not removed.
        let left_over = listing.kind(&updated).is_some();
        let link = if left_over { format!("{name}.link") } else { updated.clone() };
        let mut steps = vec![
            FileOp::CreateNew { name: name.clone() },
            FileOp::Sync { name: name.clone() },
            FileOp::Symlink { target: name, name: link.clone() },
            // The pair must be found wherever a crash finds the link.
            FileOp::SyncDir,
        ];
        if left_over {
            steps.push(FileOp::Rename { from: link, to: updated.clone() });
        }
        steps.extend([FileOp::Rename { from: updated, to: current }, FileOp::SyncDir]);
        Ok(Plan { steps })
    }

    fn updated(&self) -> String {
        format!("{}-updated.pem", self.prefix)
    }

    /// UTC, so that names sort through every change of zone; milliseconds, moved on past names in use.
    fn unused_name(&self, listing: &Listing, now: UnixTime) -> String {
        let mut at = now;
        loop {
            let (year, month, day, hour, minute, second, milli) = at.civil();
            let time = format!("{year:04}-{month:02}-{day:02}-{hour:02}-{minute:02}-{second:02}-{milli:03}");
            let name = format!("{}-{time}.pem", self.prefix);
            if listing.kind(&name).is_none() && listing.kind(&format!("{name}.link")).is_none() {
                return name;
            }
            at = UnixTime::from_millis(at.as_millis().wrapping_add(1));
        }
    }
}

/// A directory that cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The prefix cannot begin a file name.
    Prefix {
        /// The prefix.
        prefix: String,
    },
    /// A name that should be a link is something else. It may be somebody's only copy of a key.
    NotALink {
        /// The name.
        name: String,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix { prefix } => {
                write!(
                    f,
                    "{prefix:?} cannot be the prefix of file names: it must not be empty, start with a dot or contain a slash"
                )
            }
            Self::NotALink { name } => {
                write!(f, "{name} should be a symbolic link, but is not; it is left alone: move it away")
            }
        }
    }
}

impl core::error::Error for StoreError {}
