//! The credential directory as pure plans: which pair to load, and which file operations, in which
//! order, put a new pair in place. A driver lists the directory, gets a plan and carries it out.
//!
//! The layout is kubelet's (client-go `certificate_store.go`): `PREFIX-current.pem` is a link to the newest
//! `PREFIX-<UTC time>.pem`, which holds chain and key. Unlike an update by kubelet, a plan never reuses a name, and
//! syncs the directory. So `PREFIX-current.pem` leads to a whole pair after every step.
//!
//! Another program may be reading any file here, and may accept files that perennial does not. So one law holds for
//! every plan: no step removes a file that Go's `tls.LoadX509KeyPair` loads from its name, unless a durable pair,
//! issued later for the same common name, supersedes it. A start links `PREFIX-current.pem` only if that name resolves
//! to nothing; a regular file in the way of a new link is first hard-linked to a dated name. An incomplete file has a
//! name of its own (`.new`), by which the leftover of a crash is recognised and removed.

mod prune;
mod recover;

pub use prune::Dated;
pub use recover::Found;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::time::UnixTime;

/// The entries of the directory, as the driver has listed them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(pub Vec<Entry>);

/// One directory entry. For a link, this is the link itself, not its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in the directory.
    pub name: String,
    /// The type of the entry.
    pub kind: Kind,
    /// If the entry is a link to a name in this directory, that name. Otherwise `None`.
    pub target: Option<String>,
}

/// The type of a directory entry.
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
    fn entry(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        self.entry(name).map(|entry| entry.kind)
    }

    /// The name of a regular file: `name` itself, or the target of the link `name` in this directory. `None`: neither
    /// is a regular file.
    pub fn file_behind(&self, name: &str) -> Option<&str> {
        let entry = self.entry(name)?;
        let file = entry.target.as_deref().map_or(Some(entry), |target| self.entry(target))?;
        (file.kind == Kind::File).then_some(file.name.as_str())
    }

    /// Returns `name` if no entry has that name. Otherwise, appends the first number from 2 on that gives an unused
    /// name.
    fn unused(&self, name: &str) -> String {
        let mut unused = String::from(name);
        let mut count = 1_u32;
        while self.kind(&unused).is_some() {
            count = count.saturating_add(1);
            unused = format!("{name}{count}");
        }
        unused
    }
}

/// The file or files of a pair, by name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Chain and key in one file.
    Bundle(String),
    /// Chain and key in two files.
    Pair {
        /// The file with the chain.
        certificate: String,
        /// The file with the key.
        key: String,
    },
}

/// One operation on the directory. Names are relative to the directory. Only `Rename` replaces an existing name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Create the file (`O_EXCL`, mode 0600) and write its contents. Fails if the name exists.
    CreateNew {
        /// The name of the file.
        name: String,
    },
    /// Make the file's contents durable (`fsync`).
    Sync {
        /// The name of the file.
        name: String,
    },
    /// Create a symbolic link. Fails if the name exists.
    Symlink {
        /// The name that the link leads to.
        target: String,
        /// The name of the link.
        name: String,
    },
    /// Give a file a second name (a hard link). Fails if that name exists.
    Link {
        /// The name of the file.
        file: String,
        /// The second name.
        name: String,
    },
    /// Rename an entry, atomically replacing one with the new name.
    Rename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// Make all names durable (`fsync` of the directory).
    SyncDir,
    /// Remove a name from the directory.
    Remove {
        /// The name to remove.
        name: String,
    },
}

/// A sequence of file operations. The driver carries them out in order, stops at the first that fails, and then carries
/// out [`undo`](Plan::undo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations, in the order in which the driver carries them out.
    pub steps: Vec<FileOp>,
}

impl Plan {
    /// The clean-up if only the first `done` steps succeeded; empty once readers may find the new pair. The driver
    /// stops at the first clean-up step that fails. This protects the file of a link whose rename reported an error
    /// although it was carried out: the link has its final name, so the removal of its temporary name fails, and the
    /// driver does not remove the file.
    pub fn undo(&self, done: usize) -> Vec<FileOp> {
        let done = self.steps.get(..done).unwrap_or(&self.steps);
        let mut undo = Vec::new();
        let mut named = None;
        for step in done.iter().rev() {
            match step {
                FileOp::CreateNew { name } | FileOp::Symlink { name, .. } | FileOp::Link { name, .. } => {
                    // If a later step gave a new file its final name, that name is removed.
                    let name = named.filter(|(from, _)| *from == name).map_or(name, |(_, to)| to);
                    undo.push(FileOp::Remove { name: name.clone() });
                }
                FileOp::Rename { from, to } if self.links_to(to) => named = Some((from, to)),
                // Any other rename puts a file or link in use, which readers may have found, or quarantines an entry.
                // Neither is undone, nor are the steps before.
                FileOp::Rename { .. } => break,
                FileOp::Sync { .. } | FileOp::SyncDir | FileOp::Remove { .. } => {}
            }
        }
        undo
    }

    /// True if this plan makes a link that leads to `name`. Then the file `name` is not in use before the link is in
    /// place.
    fn links_to(&self, name: &str) -> bool {
        self.steps.iter().any(|step| matches!(step, FileOp::Symlink { target, .. } if target == name))
    }
}

/// The names of the files of one certificate. All of them begin with one prefix, so that several certificates can share
/// a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    /// The layout for this prefix. kubelet uses the prefixes `kubelet-client` and `kubelet-server`.
    ///
    /// # Errors
    /// [`BadPrefix`] if the prefix is empty, starts with a dot or contains a slash, backslash or NUL.
    pub fn new(prefix: impl Into<String>) -> Result<Self, BadPrefix> {
        let prefix = prefix.into();
        let fits = !prefix.is_empty() && !prefix.starts_with('.') && !prefix.contains(['/', '\\', '\0']);
        if fits { Ok(Self { prefix }) } else { Err(BadPrefix(prefix)) }
    }

    /// The name of the link to the pair in use: `PREFIX-current.pem`.
    pub fn current(&self) -> String {
        format!("{}-current.pem", self.prefix)
    }

    /// The names that may lead to the pair in use, best first: `PREFIX-current.pem`, then `PREFIX-updated.pem`, which
    /// an interrupted update leaves. If neither leads to a pair that has not expired, try [`Layout::others`].
    pub fn sources(&self, listing: &Listing) -> Vec<Source> {
        let bundle = |name| listing.kind(name).is_some().then(|| Source::Bundle(name.into()));
        [bundle(&self.current()), bundle(&self.updated())].into_iter().flatten().collect()
    }

    /// The regular files in use: `PREFIX-current.pem` and `PREFIX-updated.pem` themselves, or, if they are links, the
    /// files to which they lead.
    pub fn in_use<'a>(&self, listing: &'a Listing) -> Vec<&'a str> {
        [self.current(), self.updated()].iter().filter_map(|name| listing.file_behind(name)).collect()
    }

    /// Stores a new pair durably under a dated name and makes `PREFIX-current.pem` a link to it.
    ///
    /// If `PREFIX-current.pem` or `PREFIX-updated.pem` is a regular file, that file gets a dated name, too. If
    /// `PREFIX-current.pem` is a directory, pipe or device, it is renamed (`.bad`) once the new pair is durable.
    pub fn update(&self, listing: &Listing, mut now: UnixTime) -> Plan {
        let mut steps = self.name_files_in_the_way(listing, &mut now);
        let name = self.unused_name(listing, &mut now);
        steps.extend(create(&name));
        steps.extend(self.put_in_use(listing, &name));
        Plan { steps }
    }

    /// Stores a new pair durably under a dated name. The pair in use stays in use.
    pub fn store(&self, listing: &Listing, mut now: UnixTime) -> Plan {
        let name = self.unused_name(listing, &mut now);
        Plan { steps: create(&name).into_iter().chain([FileOp::SyncDir]).collect() }
    }

    /// Makes `PREFIX-current.pem` a link to the pair in the dated file `file`, as [`update`](Self::update) does for a
    /// new pair.
    pub fn use_stored(&self, listing: &Listing, file: &str, mut now: UnixTime) -> Plan {
        let mut steps = self.name_files_in_the_way(listing, &mut now);
        // The program that wrote the file, a kubelet for example, may not have synced it.
        steps.push(FileOp::Sync { name: file.into() });
        steps.extend(self.put_in_use(listing, file));
        Plan { steps }
    }

    /// Hard-links `PREFIX-current.pem` and `PREFIX-updated.pem` to dated names if they are regular files, since a link
    /// is about to replace them.
    fn name_files_in_the_way(&self, listing: &Listing, now: &mut UnixTime) -> Vec<FileOp> {
        let in_the_way =
            [self.updated(), self.current()].into_iter().filter(|name| listing.kind(name) == Some(Kind::File));
        in_the_way.map(|file| FileOp::Link { file, name: self.unused_name(listing, now) }).collect()
    }

    /// Makes `PREFIX-current.pem` a link to `file`, whose contents are synced.
    fn put_in_use(&self, listing: &Listing, file: &str) -> Vec<FileOp> {
        let (current, updated) = (self.current(), self.updated());
        // The leftover of an interrupted update may be, or lead to, the only pair: it is replaced, not removed.
        let (link, left_over) = match listing.kind(&updated) {
            None => (updated.clone(), false),
            Some(Kind::Link | Kind::File) => (format!("{file}{LINK}"), true),
            Some(Kind::Other) => (format!("{file}{LINK}"), false),
        };
        // The names of file and link are durable before any rename: a crash that keeps the link keeps the file.
        let mut steps = Vec::from([FileOp::Symlink { target: file.into(), name: link.clone() }, FileOp::SyncDir]);
        let mut from = link;
        if left_over {
            steps.push(FileOp::Rename { from, to: updated.clone() });
            from = updated;
        }
        // A link cannot replace a directory.
        if listing.kind(&current) == Some(Kind::Other) {
            steps.push(quarantine(listing, &current));
        }
        steps.extend([FileOp::Rename { from, to: current }, FileOp::SyncDir]);
        steps
    }

    /// The name of the link that an update renames to `PREFIX-current.pem`: `PREFIX-updated.pem`. An entry has this
    /// name for a moment during an update. If the update is interrupted, the entry keeps the name.
    pub fn updated(&self) -> String {
        format!("{}-updated.pem", self.prefix)
    }

    /// An unused dated name: no entry has this name, or this name followed by `.new`, `.link` or `.bad`. The time is
    /// UTC in milliseconds, so that names sort by time in any time zone. Moves `now` past the time of the name, so that
    /// the next name differs and sorts after this one.
    fn unused_name(&self, listing: &Listing, now: &mut UnixTime) -> String {
        loop {
            let (year, month, day, hour, minute, second, milli) = now.civil();
            // Wraps: a clock at the end of time must not make the same name for ever.
            *now = UnixTime::from_millis(now.as_millis().wrapping_add(1));
            let time = format!("{year:04}-{month:02}-{day:02}-{hour:02}-{minute:02}-{second:02}-{milli:03}");
            let name = format!("{}-{time}.pem", self.prefix);
            // Check the suffixes, too: a leftover of such a name would be in the way of a later step.
            let is_taken = |suffix: &str| listing.kind(&format!("{name}{suffix}")).is_some();
            if !["", NEW, LINK, BAD].into_iter().any(is_taken) {
                return name;
            }
        }
    }

    /// The name of the file with the record of the last request ([`Pending`](crate::Pending)) and its key.
    pub fn pending(&self) -> String {
        format!("{}-pending.json", self.prefix)
    }

    /// Replaces the pending record. After a crash, the directory has the old record or the new one. An old record that
    /// cannot be read is replaced, too, since no certificate was issued for its key yet. A directory, pipe or device in
    /// the place of the record is renamed (`.bad`) before the new record takes the name.
    pub fn remember(&self, listing: &Listing) -> Plan {
        let (pending, new) = (self.pending(), format!("{}{NEW}", self.pending()));
        let left_over = listing.kind(&new).map(|_| FileOp::Remove { name: new.clone() });
        let written = [FileOp::CreateNew { name: new.clone() }, FileOp::Sync { name: new.clone() }];
        let in_the_way = (listing.kind(&pending) == Some(Kind::Other)).then(|| quarantine(listing, &pending));
        let renamed = [FileOp::Rename { from: new, to: pending }, FileOp::SyncDir];
        Plan { steps: left_over.into_iter().chain(written).chain(in_the_way).chain(renamed).collect() }
    }
}

/// Creates a file under a temporary name, and gives the file its name once its contents are complete and synced.
fn create(name: &str) -> [FileOp; 3] {
    let new = format!("{name}{NEW}");
    [
        FileOp::CreateNew { name: new.clone() },
        FileOp::Sync { name: new.clone() },
        FileOp::Rename { from: new, to: name.into() },
    ]
}

/// Suffix of a file whose contents are not complete and synced yet.
const NEW: &str = ".new";
/// Suffix of a new link before it is renamed to `PREFIX-updated.pem` or `PREFIX-current.pem`.
const LINK: &str = ".link";
/// Suffix of a quarantined entry, which was in the way of a link or a record. A number follows the suffix if the name
/// is taken.
const BAD: &str = ".bad";

/// Quarantines an entry that is in the way: appends [`BAD`] to its name and, if that name is taken, a number.
fn quarantine(listing: &Listing, name: &str) -> FileOp {
    FileOp::Rename { from: name.into(), to: listing.unused(&format!("{name}{BAD}")) }
}

/// Error of [`Layout::new`]: the prefix is empty, starts with a dot, or contains a slash, backslash or NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPrefix(String);

impl fmt::Display for BadPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} cannot begin file names: it must not be empty, start with a dot or contain a slash", self.0)
    }
}

impl core::error::Error for BadPrefix {}
