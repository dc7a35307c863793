//! What to remove: old pairs, and what updates cut short have left.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Entry, FileOp, Kind, LINK, Layout, Listing, NEW, Plan};
use crate::time::UnixTime;

/// A dated file that holds a pair of the identity in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The file.
    pub name: String,
    /// When its certificate began to be valid.
    pub not_before: UnixTime,
}

impl Layout {
    /// Removes all but the `keep` newest of `pairs`. The pair in use is kept, and counts; then comes the pair in use
    /// `before`, which a reader may be about to open. A pair issued later than the one in use is kept: another program
    /// may have just written it. Carry the plan out only when the pair in use is durable.
    pub fn prune(&self, listing: &Listing, pairs: &[Dated], keep: usize, before: Option<&str>) -> Plan {
        let in_use = self.in_use(listing);
        let is_in_use = |pair: &&Dated| in_use.contains(&pair.name.as_str());
        let issued = pairs.iter().filter(is_in_use).map(|pair| pair.not_before).max();
        let mut others: Vec<&Dated> = pairs.iter().filter(|pair| !is_in_use(pair)).collect();
        others.retain(|pair| listing.kind(&pair.name) == Some(Kind::File) && self.is_dated(&pair.name));
        others.retain(|pair| Some(pair.not_before) <= issued);
        let worth = |pair: &Dated| (before == Some(pair.name.as_str()), pair.not_before);
        others.sort_unstable_by(|a, b| (worth(b), &b.name).cmp(&(worth(a), &a.name)));
        let spare = keep.saturating_sub(in_use.len().max(1));
        let old = others.into_iter().skip(spare).map(|pair| pair.name.clone());
        Plan { steps: old.map(|name| FileOp::Remove { name }).collect() }
    }

    /// Removes leftovers of updates that were cut short: files that were not whole yet, and temporary links. A file stays,
    /// whatever its name, if the link in use, or one in its stead, leads to it.
    pub fn sweep(&self, listing: &Listing) -> Plan {
        let target = |name: &str| listing.entry(name)?.target.as_deref();
        let mut needed: Vec<&str> = Vec::new();
        let fixed = ["crt", "key"].map(|end| format!("{}.{end}", self.prefix));
        for name in [self.current(), self.updated()].into_iter().chain(fixed) {
            let mut next = target(&name);
            while let Some(name) = next.filter(|name| !needed.contains(name)) {
                needed.push(name);
                next = target(name);
            }
        }
        let left = listing.0.iter().filter(|entry| self.is_unfinished(entry) && !needed.contains(&entry.name.as_str()));
        Plan { steps: left.map(|entry| FileOp::Remove { name: entry.name.clone() }).collect() }
    }

    /// True for our own temporaries: `*.new` files and `*.link` symlinks. No other program uses such names.
    fn is_unfinished(&self, Entry { name, kind, .. }: &Entry) -> bool {
        match kind {
            Kind::File => name.strip_suffix(NEW).is_some_and(|name| self.is_dated(name) || name == self.pending()),
            Kind::Link => {
                let plain = name.trim_end_matches(|c: char| c.is_ascii_digit());
                plain.strip_suffix(LINK).is_some_and(|name| self.is_dated(name))
            }
            Kind::Other => false,
        }
    }
}
