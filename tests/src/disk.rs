//! A directory as a kernel shows it, and as a disk may hold it when the power fails.
//!
//! Processes see every change immediately. [`Disk::outcomes`] are the states in which a loss of power may leave the
//! directory:
//!
//! - **Contents** of a file that were not synced: after the loss, the file has the new contents, a part of them, zeros
//!   in their place, the older contents, or nothing. A symbolic link may have an empty target until the directory that
//!   contains the link is synced: btrfs and f2fs have left empty links.
//! - **Names** that were not synced: after the loss, each name is in any of the states that it went through since the
//!   directory was synced, independent of all other names. But a rename removes the old name only if the new name
//!   survives.
//!
//! POSIX promises nothing without `fsync`, and each system may choose what `fsync` does for a directory. ext4 and xfs
//! keep changes of names in order: if a change survives, all earlier ones do. The log tree of btrfs lets the names of
//! one file survive without those of others. ext4, xfs and btrfs make a rename atomic; a file system without a journal
//! (ext2) may leave both names. The outcomes include every state that one of these file systems may leave, and many
//! that no file system leaves. A rename that leaves neither name is excluded: no file system with a journal does that,
//! and no program could keep data on such a file system.
//!
//! A folder inside of the directory has its own names and its own sync. If the name of a folder is lost, so are the
//! names in it.
//!
//! Owners, modes and damaged sectors are not modelled.

mod outcomes;
#[cfg(feature = "edge")]
mod pairs;
#[cfg(feature = "edge")]
mod volume;

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use perennial::store::{Entry, FileOp, Kind, Listing};

#[cfg(feature = "edge")]
pub use pairs::{NODE, expired, pair};
#[cfg(feature = "edge")]
pub use volume::{Call, Fate, Fates, NOW, PREFIX, Virtual, VirtualFolder};

/// The absolute path of the directory.
pub const PATH: &str = "/pki";

/// A virtual directory: entries as processes see them, and the changes that are not durable yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Disk {
    nodes: BTreeMap<usize, Node>,
    /// The names that processes see, each with the key of its inode in `nodes`.
    names: BTreeMap<Arc<str>, usize>,
    /// The names at the last sync of the directory.
    durable: BTreeMap<Arc<str>, usize>,
    /// The changes of names since the last sync of the directory, in order.
    changes: Vec<Change>,
}

/// An inode, to which names lead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Node {
    kind: NodeKind,
    bytes: Arc<[u8]>,
    /// The contents that were durable before the changes in `bytes`; `None` if `bytes` itself is durable.
    before: Option<Arc<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum NodeKind {
    File,
    Link,
    Folder,
}

/// A change of one name. From this change on, the name leads to the inode `node`; `None`: the name no longer exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Change {
    name: Arc<str>,
    node: Option<usize>,
    /// The index in [`Disk::changes`] of another change. If a loss of power undoes that change, it undoes this one,
    /// too: a rename removes the old name only if the new name survives.
    needs: Option<usize>,
}

impl Disk {
    /// Adds an entry to the initial directory. Its name is durable.
    #[must_use]
    pub fn with(mut self, name: &str, contents: Start<'_>) -> Self {
        let (kind, bytes) = match contents {
            Start::File(bytes) | Start::Unsynced(bytes) => (NodeKind::File, bytes),
            Start::Link(target) => (NodeKind::Link, target.as_bytes()),
            Start::Folder => (NodeKind::Folder, &[][..]),
        };
        let before = matches!(contents, Start::Unsynced(_)).then(|| [][..].into());
        let node = self.add(Node { kind, bytes: bytes.into(), before });
        self.names.insert(name.into(), node);
        self.durable.insert(name.into(), node);
        self
    }

    /// The names and contents that processes see. The contents of a link are its target.
    pub fn visible(&self) -> BTreeMap<Arc<str>, Arc<[u8]>> {
        self.names.iter().map(|(name, node)| (name.clone(), self.nodes[node].bytes.clone())).collect()
    }

    /// The entries that processes see, with their kinds and the targets of links.
    pub fn list(&self) -> Listing {
        self.list_in("")
    }

    /// The entries of a folder; those of the directory itself if `folder` is empty.
    pub fn list_in(&self, folder: &str) -> Listing {
        let entry = |(name, node): (&Arc<str>, &usize)| {
            let (parent, name) = split(name);
            if parent != folder {
                return None;
            }
            let kind = match self.nodes[node].kind {
                NodeKind::File => Kind::File,
                NodeKind::Link => Kind::Link,
                NodeKind::Folder => Kind::Other,
            };
            Some(Entry { name: name.into(), kind, target: self.target(*node).map(Into::into) })
        };
        Listing(self.names.iter().filter_map(entry).collect())
    }

    /// True if there is a folder of this name.
    pub fn has_folder(&self, folder: &str) -> bool {
        folder.is_empty() || self.names.get(folder).is_some_and(|node| self.nodes[node].kind == NodeKind::Folder)
    }

    /// The text of a symbolic link; `None` if the name does not exist or is no link.
    pub fn link_text(&self, name: &str) -> Option<&str> {
        let node = self.nodes.get(self.names.get(name)?).filter(|node| node.kind == NodeKind::Link)?;
        std::str::from_utf8(&node.bytes).ok()
    }

    /// The contents of a file, links followed; `None` if the name does not exist, or a link leads out of the directory.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] for a directory, [`ErrorKind::NotFound`] for a loop of links.
    pub fn read(&self, name: &str) -> Result<Option<Arc<[u8]>>> {
        let mut path = name.to_owned();
        for _ in 0..8 {
            // A link in the place of a folder: `..data/tls.crt`.
            let links = path.match_indices('/').find_map(|(at, _)| Some((at, self.link_text(&path[..at])?)));
            if let Some((at, target)) = links {
                path = join(&join(split(&path[..at]).0, target), &path[at + 1..]);
                continue;
            }
            let (parent, _) = split(&path);
            let Some(node) = self.names.get(path.as_str()) else { return Ok(None) };
            match self.nodes[node].kind {
                NodeKind::File => return Ok(Some(self.nodes[node].bytes.clone())),
                NodeKind::Folder => return Err(ErrorKind::InvalidData.into()),
                NodeKind::Link => {
                    let Some(text) = self.link_text(&path).filter(|text| !text.is_empty()) else { return Ok(None) };
                    path = match text.strip_prefix(PATH).and_then(|name| name.strip_prefix('/')) {
                        Some(name) => name.to_owned(),
                        None => join(parent, text),
                    };
                }
            }
        }
        Err(ErrorKind::NotFound.into())
    }

    /// Carries out an operation, and passes every intermediate state to `seen`.
    ///
    /// # Errors
    /// The error that a kernel would return; the directory is unchanged.
    pub fn execute(&mut self, op: &FileOp, contents: &[u8], seen: impl FnMut(&Self)) -> Result<()> {
        self.execute_in("", op, contents, seen)
    }

    /// Carries out an operation in a folder, and passes every intermediate state to `seen`. The names of the operation
    /// are those of the folder's entries.
    ///
    /// # Errors
    /// The error that a kernel would return; the directory is unchanged.
    pub fn execute_in(
        &mut self,
        folder: &str,
        op: &FileOp,
        contents: &[u8],
        mut seen: impl FnMut(&Self),
    ) -> Result<()> {
        if !self.has_folder(folder) {
            return Err(ErrorKind::NotFound.into());
        }
        let at = |name: &str| join(folder, name);
        match op {
            FileOp::CreateNew { name } => {
                let name = at(name);
                self.create(&name, NodeKind::File, &[])?;
                for written in [0, contents.len() / 3] {
                    self.write(&name, &contents[..written])?;
                    seen(self);
                }
                self.write(&name, contents)?;
            }
            FileOp::Sync { name } => self.sync(&at(name))?,
            FileOp::Symlink { target, name } => self.create(&at(name), NodeKind::Link, target.as_bytes())?,
            FileOp::Link { file, name } => {
                self.free(&at(name))?;
                let node = self.node(&at(file))?;
                self.change(&at(name), Some(node), None);
            }
            FileOp::Rename { from, to } => self.rename(&at(from), &at(to))?,
            FileOp::SyncDir => self.sync_names(folder),
            FileOp::Remove { name } => {
                self.node(&at(name))?;
                self.change(&at(name), None, None);
            }
        }
        seen(self);
        Ok(())
    }

    /// Creates a folder in the directory.
    ///
    /// # Errors
    /// The name exists.
    pub fn create_folder(&mut self, name: &str) -> Result<()> {
        self.create(name, NodeKind::Folder, &[])
    }

    /// Removes a folder of the directory.
    ///
    /// # Errors
    /// There is no such folder, or it has entries.
    pub fn remove_folder(&mut self, name: &str) -> Result<()> {
        if !self.has_folder(name) {
            return Err(ErrorKind::NotFound.into());
        }
        if !self.list_in(name).0.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(name, None, None);
        Ok(())
    }

    /// Replaces the contents of a file in place (`O_TRUNC`), or creates the file. Passes every intermediate state to
    /// `seen`.
    ///
    /// # Errors
    /// No error occurs if `name` is a regular file, or does not exist yet.
    pub fn overwrite(&mut self, name: &str, contents: &[u8], mut seen: impl FnMut(&Self)) -> Result<()> {
        if !self.names.contains_key(name) {
            self.create(name, NodeKind::File, &[])?;
        }
        for written in [0, contents.len() / 3, contents.len()] {
            self.write(name, &contents[..written])?;
            seen(self);
        }
        Ok(())
    }

    fn write(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        let node = self.node(name)?;
        let node = self.nodes.get_mut(&node).ok_or(ErrorKind::NotFound)?;
        let old = std::mem::replace(&mut node.bytes, contents.into());
        node.before.get_or_insert(old);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        self.nodes.entry(node).and_modify(|node| node.before = None);
        Ok(())
    }

    /// Makes all names of a folder durable, and with them the text of symbolic links.
    fn sync_names(&mut self, folder: &str) {
        let is_here = |name: &str| split(name).0 == folder;
        self.durable.retain(|name, _| !is_here(name));
        let here = self.names.iter().filter(|(name, _)| is_here(name));
        self.durable.extend(here.map(|(name, node)| (name.clone(), *node)));
        // The changes of other folders stay, with new numbers.
        let numbers: Vec<Option<usize>> = (self.changes.iter())
            .scan(0, |next, change| {
                let number = (!is_here(&change.name)).then_some(*next);
                *next += usize::from(number.is_some());
                Some(number)
            })
            .collect();
        self.changes.retain(|change| !is_here(&change.name));
        for change in &mut self.changes {
            change.needs = change.needs.and_then(|at| numbers[at]);
        }
        for (_, node) in self.durable.iter().filter(|(name, _)| is_here(name)) {
            if let Some(link) = self.nodes.get_mut(node).filter(|node| node.kind == NodeKind::Link) {
                link.before = None;
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let node = self.node(from)?;
        let is_folder = |node: usize| self.nodes[&node].kind == NodeKind::Folder;
        if self.names.get(to).is_some_and(|old| is_folder(*old) != is_folder(node)) {
            return Err(ErrorKind::IsADirectory.into());
        }
        if self.names.get(to) != Some(&node) {
            let there = self.change(to, Some(node), None);
            self.change(from, None, Some(there));
        }
        Ok(())
    }

    fn create(&mut self, name: &str, kind: NodeKind, bytes: &[u8]) -> Result<()> {
        self.free(name)?;
        let before = Some([][..].into());
        let node = self.add(Node { kind, bytes: bytes.into(), before });
        self.change(name, Some(node), None);
        Ok(())
    }

    fn add(&mut self, node: Node) -> usize {
        let number = self.nodes.last_key_value().map_or(0, |(last, _)| last + 1);
        self.nodes.insert(number, node);
        number
    }

    fn change(&mut self, name: &str, node: Option<usize>, needs: Option<usize>) -> usize {
        match node {
            Some(node) => self.names.insert(name.into(), node),
            None => self.names.remove(name),
        };
        self.changes.push(Change { name: name.into(), node, needs });
        self.changes.len() - 1
    }

    fn node(&self, name: &str) -> Result<usize> {
        self.names.get(name).copied().ok_or_else(|| Error::from(ErrorKind::NotFound))
    }

    fn free(&self, name: &str) -> Result<()> {
        if self.names.contains_key(name) { Err(ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }

    /// The name in the link's folder to which a link leads. `None` if the inode is no link, or if the link leads out of
    /// the directory.
    fn target(&self, node: usize) -> Option<&str> {
        let node = self.nodes.get(&node).filter(|node| node.kind == NodeKind::Link)?;
        let text = std::str::from_utf8(&node.bytes).ok()?;
        let text = text.strip_prefix(PATH).and_then(|name| name.strip_prefix('/')).unwrap_or(text);
        (!text.is_empty() && !text.contains('/')).then_some(text)
    }
}

/// The folder and the name of an entry; the folder is empty for an entry of the directory itself.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The path of an entry in a folder.
fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// An entry of the initial directory.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// A regular file.
    File(&'a [u8]),
    /// A regular file whose contents were not synced.
    Unsynced(&'a [u8]),
    /// A symbolic link.
    Link(&'a str),
    /// A directory.
    Folder,
}
