//! The states in which a loss of power may leave a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Disk, Node};

impl Disk {
    /// Every state in which the directory may be when the power is back.
    pub fn outcomes(&self) -> BTreeSet<Self> {
        let changed: BTreeSet<&str> = self.changes.iter().map(|change| &*change.name).collect();
        let mut survivors = vec![vec![false; self.changes.len()]];
        for name in changed {
            let of_name: Vec<usize> = (0..self.changes.len()).filter(|at| &*self.changes[*at].name == name).collect();
            survivors = each(&survivors, 0..=of_name.len(), |survives, so_many| {
                of_name[..so_many].iter().for_each(|change| survives[*change] = true);
            });
        }
        survivors.retain(|survives| {
            let kept =
                |(at, change): (usize, &super::Change)| !survives[at] || change.needs.is_none_or(|it| survives[it]);
            self.changes.iter().enumerate().all(kept)
        });
        survivors.iter().flat_map(|survives| self.contents(self.surviving(survives))).collect()
    }

    fn surviving(&self, survives: &[bool]) -> BTreeMap<Arc<str>, usize> {
        let mut names = self.durable.clone();
        for (change, _) in self.changes.iter().zip(survives).filter(|(_, survives)| **survives) {
            match change.node {
                Some(node) => names.insert(change.name.clone(), node),
                None => names.remove(&change.name),
            };
        }
        let found: BTreeSet<Arc<str>> = names.keys().cloned().collect();
        names.retain(|name, _| name.match_indices('/').all(|(at, _)| found.contains(&name[..at])));
        names
    }

    /// Every directory that has these names, and in which the contents of each inode are in one of the states that a
    /// loss of power may leave.
    fn contents(&self, names: BTreeMap<Arc<str>, usize>) -> Vec<Self> {
        let reached: BTreeSet<usize> = names.values().copied().collect();
        let nodes: BTreeMap<usize, Node> = reached.iter().map(|node| (*node, self.nodes[node].clone())).collect();
        let disk = Self { nodes, durable: names.clone(), names, changes: Vec::new() };
        let mut disks = vec![disk];
        for node in reached {
            let left = self.nodes[&node].left();
            disks = each(&disks, left, |disk, bytes| {
                disk.nodes.entry(node).and_modify(|node| (node.bytes, node.before) = (bytes, None));
            });
        }
        disks.into_iter().map(Self::renumbered).collect()
    }

    /// Drops inodes without a name and renumbers the others, so that directories with the same entries compare equal.
    #[must_use]
    pub fn renumbered(self) -> Self {
        let mut order: Vec<usize> = self.names.values().chain(self.durable.values()).copied().collect();
        order.extend(self.changes.iter().filter_map(|change| change.node));
        let mut numbers = BTreeMap::new();
        for node in order {
            let next = numbers.len();
            numbers.entry(node).or_insert(next);
        }
        let renumber =
            |names: BTreeMap<Arc<str>, usize>| names.into_iter().map(|(name, node)| (name, numbers[&node])).collect();
        let mut changes = self.changes;
        changes.iter_mut().for_each(|change| change.node = change.node.map(|node| numbers[&node]));
        let nodes = self.nodes.into_iter().filter_map(|(node, it)| Some((*numbers.get(&node)?, it))).collect();
        Self { nodes, names: renumber(self.names), durable: renumber(self.durable), changes }
    }
}

impl Node {
    /// Every state in which a loss of power may leave the contents of the inode, or the target of a link: the old or
    /// the new one. A file may also be empty, end after the first half of the new contents, or have zeros in place of
    /// the whole or of the second half.
    fn left(&self) -> Vec<Arc<[u8]>> {
        let Some(before) = &self.before else { return vec![self.bytes.clone()] };
        let whole = self.bytes.len();
        let half = &self.bytes[..whole / 2];
        let zeros = |from: &[u8]| [from, &vec![0; whole - from.len()]].concat().into();
        let mut left = vec![before.clone(), self.bytes.clone()];
        if self.kind == super::NodeKind::File {
            left.extend([[][..].into(), half.into(), zeros(&[]), zeros(half)]);
        }
        left.sort_unstable();
        left.dedup();
        left
    }
}

/// Combines each element of `all` with each of `ways`: copies the element, and lets `change` change the copy in that
/// way. Returns the changed copies.
fn each<T: Clone, W>(all: &[T], ways: impl IntoIterator<Item = W>, change: impl Fn(&mut T, W)) -> Vec<T>
where
    W: Clone,
{
    let ways: Vec<W> = ways.into_iter().collect();
    let changed = |one: &T, way: &W| {
        let mut one = one.clone();
        change(&mut one, way.clone());
        one
    };
    all.iter().flat_map(|one| ways.iter().map(move |way| changed(one, way))).collect()
}
