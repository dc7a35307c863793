//! Plans that remove old pairs and the leftovers of interrupted updates.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Entry, FileOp, Kind, LINK, Layout, Listing, NEW, Plan};
use crate::time::UnixTime;

/// A dated file that holds a pair of the identity in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The name of the file.
    pub name: String,
    /// The notBefore of the certificate in the file.
    pub not_before: UnixTime,
}

impl Layout {
    /// Removes all but `keep` of `pairs`. The pair in use is retained first, the file `before` next, and then the
    /// newest pairs. `before` is the file that was in use until the last update: a reader may be about to open it. Also
    /// retains every pair issued later than the pair in use, since another program may have just written it. Carry the
    /// plan out only once the pair in use is durable.
    pub fn prune(&self, listing: &Listing, pairs: &[Dated], keep: usize, before: Option<&str>) -> Plan {
        let in_use = self.in_use(listing);
        let is_in_use = |pair: &&Dated| in_use.contains(&pair.name.as_str());
        let issued = pairs.iter().filter(is_in_use).map(|pair| pair.not_before).max();
        let mut others: Vec<&Dated> = pairs.iter().filter(|pair| !is_in_use(pair)).collect();
        others.retain(|pair| listing.kind(&pair.name) == Some(Kind::File) && self.is_dated(&pair.name));
        others.retain(|pair| Some(pair.not_before) <= issued);
        let rank = |pair: &Dated| (before == Some(pair.name.as_str()), pair.not_before);
        others.sort_unstable_by(|a, b| (rank(b), &b.name).cmp(&(rank(a), &a.name)));
        let spare = keep.saturating_sub(in_use.len().max(1));
        let old = others.into_iter().skip(spare).map(|pair| pair.name.clone());
        Plan { steps: old.map(|name| FileOp::Remove { name }).collect() }
    }

    /// Removes leftovers of interrupted updates: incomplete files and temporary links. Retains an entry with such a
    /// name if `PREFIX-current.pem`, `PREFIX-updated.pem`, `PREFIX.crt` or `PREFIX.key` leads to the entry.
    pub fn sweep(&self, listing: &Listing) -> Plan {
        let target = |name: &str| listing.entry(name)?.target.as_deref();
        let mut needed: Vec<&str> = Vec::new();
        let fixed = ["crt", "key"].map(|end| format!("{}.{end}", self.prefix));
        for name in [self.current(), self.updated()].into_iter().chain(fixed) {
            let mut next = target(&name);
            // Links may lead to links, and in a loop.
            while let Some(name) = next.filter(|name| !needed.contains(name)) {
                needed.push(name);
                next = target(name);
            }
        }
        let left = listing.0.iter().filter(|entry| self.is_unfinished(entry) && !needed.contains(&entry.name.as_str()));
        Plan { steps: left.map(|entry| FileOp::Remove { name: entry.name.clone() }).collect() }
    }

    /// True for perennial's own temporaries: `*.new` files and `*.link` symlinks of this prefix. No other program is
    /// known to use such names.
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
