//! Finding the pairs of a directory, choosing the pair to use, and repairing a directory at a start.

use alloc::format;
use alloc::vec::Vec;

use super::{BAD, FileOp, Kind, LINK, Layout, Listing, Plan, Source};
use crate::certificate::Validity;
use crate::time::UnixTime;

/// The most dated files that are read, however many there are.
const MOST_DATED: usize = 1000;
const TIME: &str = "0000-00-00-00-00-00-000";

/// A pair that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its source was among [`Layout::sources`].
    pub in_use: bool,
    /// The common name of its certificate.
    pub common_name: &'a str,
    /// The validity period of its certificate.
    pub validity: Validity,
}

impl Layout {
    /// Sources of pairs that are not in use: the [`dated`](Self::dated) files, and the fixed names of older installations.
    pub fn others(&self, listing: &Listing) -> Vec<Source> {
        let (certificate, key) = (format!("{}.crt", self.prefix), format!("{}.key", self.prefix));
        let pair = listing.kind(&certificate).is_some() && listing.kind(&key).is_some();
        let dated = self.dated(listing).into_iter().map(|name| Source::Bundle(name.into()));
        dated.chain(pair.then_some(Source::Pair { certificate, key })).collect()
    }

    /// Whether there is anything of this certificate: a pair, whatever became of it, or the record of a request.
    pub fn is_used(&self, listing: &Listing) -> bool {
        let record = listing.kind(&self.pending()).is_some();
        record || !self.sources(listing).is_empty() || !self.others(listing).is_empty()
    }

    /// Files that an update renamed to make room (`.bad`; `.kept` by perennial 0.1.0), for a person to inspect and remove.
    pub fn quarantined<'a>(&'a self, listing: &'a Listing) -> impl Iterator<Item = &'a str> {
        let is_quarantined = |name: &&str| {
            let ours = name.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.starts_with('-'));
            let plain = name.trim_end_matches(|c: char| c.is_ascii_digit());
            ours && (plain.ends_with(BAD) || plain.ends_with(".kept"))
        };
        listing.0.iter().map(|entry| entry.name.as_str()).filter(is_quarantined)
    }

    /// Regular files named like those an update makes, newest name first, a thousand of them at most. A kubelet's, which
    /// carry local time, are among them.
    pub fn dated<'a>(&self, listing: &'a Listing) -> Vec<&'a str> {
        let files = listing.0.iter().filter(|entry| entry.kind == Kind::File).map(|entry| entry.name.as_str());
        let mut dated: Vec<&str> = files.filter(|name| self.is_dated(name)).collect();
        dated.sort_unstable_by(|a, b| b.cmp(a));
        dated.truncate(MOST_DATED);
        dated
    }

    pub(super) fn is_dated(&self, name: &str) -> bool {
        let time = name.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let time = time.and_then(|rest| rest.strip_suffix(".pem"));
        let fits = |(byte, form): (u8, u8)| if form == b'-' { byte == b'-' } else { byte.is_ascii_digit() };
        // A kubelet's has no milliseconds. Exactly this form: the rest may belong to a longer prefix.
        time.is_some_and(|time| matches!(time.len(), 19 | 23) && time.bytes().zip(TIME.bytes()).all(fits))
    }

    /// True for the names under which only files with a key of ours lie.
    pub fn is_ours(&self, name: &str) -> bool {
        let is_link = name == self.current() || name == self.updated();
        is_link || self.is_dated(name) || name.strip_prefix(self.prefix.as_str()) == Some(".key")
    }

    /// The index of the pair to use: the one that is valid longest, or else the one in use, or else the one that was
    /// valid last. A pair that is not in use counts only if its common name is among `names`, or `names` is empty.
    pub fn best(found: &[Found<'_>], names: &[&str], now: UnixTime) -> Option<usize> {
        let fits = |pair: &Found<'_>| pair.in_use || names.is_empty() || names.contains(&pair.common_name);
        let worth = |Found { in_use, validity, .. }: &Found<'_>| {
            let valid = validity.not_before() <= now && !validity.expired(now);
            (valid, *in_use, validity.not_after(), validity.not_before())
        };
        // Of equals the first, which has the newer name.
        let fitting = (0..found.len()).rev().filter(|index| fits(&found[*index]));
        fitting.max_by_key(|index| worth(&found[*index]))
    }

    /// The repairs of a start that uses the pair at `taken`. The plan makes a pair durable that a killed update left, and,
    /// if `vacant` (`PREFIX-current.pem` resolves to nothing), links `PREFIX-current.pem` to the pair. The plan leaves
    /// everything else alone: another program may be reading it.
    pub fn recover(&self, listing: &Listing, vacant: bool, taken: Option<&Source>, mut now: UnixTime) -> Plan {
        let Some(Source::Bundle(file)) = taken else { return Plan::default() };
        let (current, updated) = (self.current(), self.updated());
        let mut steps = Vec::new();
        let mut file = file.clone();
        match listing.kind(&file) {
            Some(Kind::Link) if vacant && file == updated => steps.push(FileOp::Rename { from: file, to: current }),
            Some(Kind::File) if vacant => {
                if file == updated {
                    let name = self.unused_name(listing, &mut now);
                    steps.push(FileOp::Link { file, name: name.clone() });
                    file = name;
                }
                let link = listing.unused(&format!("{file}{LINK}"));
                steps.extend([
                    FileOp::Sync { name: file.clone() },
                    FileOp::Symlink { target: file, name: link.clone() },
                    FileOp::Rename { from: link, to: current },
                ]);
            }
            Some(Kind::File) => steps.push(FileOp::Sync { name: file }),
            _ => {}
        }
        steps.push(FileOp::SyncDir);
        Plan { steps }
    }
}
