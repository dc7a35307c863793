//! When what is in use holds no pair: where else to look, which pair to take, and how to put the directory right.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{BAD, FileOp, KEPT, Kind, LINK, Layout, Listing, Plan, Source, set_aside};
use crate::certificate::Validity;
use crate::time::UnixTime;

/// So many dated files are looked at, however many there are.
const MOST_DATED: usize = 1000;
const TIME: &str = "0000-00-00-00-00-00-000";

/// A pair that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Where [`Layout::sources`] said.
    pub in_use: bool,
    /// Whose it is.
    pub common_name: &'a str,
    /// When it is valid.
    pub validity: Validity,
}

impl Layout {
    /// Where pairs may lie that are not in use: the dated files, newest name first, a thousand of them at most, and the
    /// fixed names of older installations.
    pub fn others(&self, listing: &Listing) -> Vec<Source> {
        let (certificate, key) = (format!("{}.crt", self.prefix), format!("{}.key", self.prefix));
        let pair = listing.kind(&certificate).is_some() && listing.kind(&key).is_some();
        let mut dated: Vec<&String> = self.dated(listing).collect();
        dated.sort_unstable_by(|a, b| b.cmp(a));
        dated.truncate(MOST_DATED);
        let dated = dated.into_iter().map(|name| Source::Bundle(name.clone()));
        dated.chain(pair.then_some(Source::Pair { certificate, key })).collect()
    }

    /// Whether there is anything of this certificate: a pair, whatever became of it, or the record of a request.
    pub fn is_used(&self, listing: &Listing) -> bool {
        let record = listing.kind(&self.pending()).is_some();
        record || !self.sources(listing).is_empty() || !self.others(listing).is_empty()
    }

    /// What was set aside or kept because it was in the way: for a person to look at, and to remove.
    pub fn aside<'a>(&'a self, listing: &'a Listing) -> impl Iterator<Item = &'a str> {
        let is_aside = |name: &&str| {
            let ours = name.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.starts_with('-'));
            let plain = name.trim_end_matches(|c: char| c.is_ascii_digit());
            ours && (plain.ends_with(BAD) || plain.ends_with(KEPT))
        };
        listing.0.iter().map(|entry| entry.name.as_str()).filter(is_aside)
    }

    /// Regular files named like those an update makes; a kubelet's, which carry local time, are among them.
    pub(super) fn dated<'a>(&self, listing: &'a Listing) -> impl Iterator<Item = &'a String> {
        let files = listing.0.iter().filter(|entry| entry.kind == Kind::File).map(|entry| &entry.name);
        files.filter(|name| self.is_dated(name))
    }

    pub(super) fn is_dated(&self, name: &str) -> bool {
        let time = name.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let time = time.and_then(|rest| rest.strip_suffix(".pem"));
        let fits = |(byte, form): (u8, u8)| if form == b'-' { byte == b'-' } else { byte.is_ascii_digit() };
        // A kubelet's has no milliseconds. Exactly this form: the rest may belong to a longer prefix.
        time.is_some_and(|time| matches!(time.len(), 19 | 23) && time.bytes().zip(TIME.bytes()).all(fits))
    }

    /// Whether it has one of the names that nobody gives a file in which there is no key of ours.
    pub fn is_ours(&self, name: &str) -> bool {
        self.is_written(name) || name.strip_prefix(self.prefix.as_str()) == Some(".key")
    }

    /// Whether updates give files that name.
    fn is_written(&self, name: &str) -> bool {
        self.is_dated(name) || name == self.current() || name == self.updated()
    }

    /// Which of these pairs to take: the one that is valid longest, or else the one in use, or else the one that was
    /// valid last. `names` is whose it may be, if it is not in use: another's is of no use to us. If nobody knows that,
    /// there are none.
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

    /// How to put the directory right: `damaged` names what led to no pair, as [`Layout::sources`] and
    /// [`Layout::others`] gave it, and `taken` is where a pair was found in its stead.
    ///
    /// What is damaged is set aside, if it is in the way and ours. Nothing that is read well is touched, but that what
    /// has expired is not in use afterwards. What was found is durable afterwards, even if it was left by an update
    /// that was killed.
    pub fn recover(&self, listing: &Listing, damaged: &[String], taken: Option<&Source>) -> Plan {
        let (current, updated) = (self.current(), self.updated());
        let found = match taken {
            Some(Source::Bundle(name)) => [listing.file_behind(name), None],
            Some(Source::Pair { certificate, key }) => [certificate, key].map(|name| listing.file_behind(name)),
            None => [None; 2],
        };
        let mut steps = Vec::new();
        for name in [&current, &updated].into_iter().filter(|name| damaged.contains(name)) {
            let aside = match (listing.kind(name), listing.file_behind(name)) {
                (Some(_), Some(file)) if self.is_written(file) => file,
                // A loop, or what is somebody else's: only the link is ours.
                (Some(_), _) => name,
                (None, _) => continue,
            };
            let step = set_aside(listing, aside);
            if !found.contains(&Some(aside)) && !steps.contains(&step) {
                steps.push(step);
            }
        }
        let file = match taken {
            Some(Source::Bundle(file)) if *file != current => file,
            // An update that was killed may have made it visible, but not yet durable.
            Some(Source::Bundle(_)) => {
                steps.push(FileOp::SyncDir);
                return Plan { steps };
            }
            Some(Source::Pair { .. }) | None => return Plan { steps },
        };
        let mut from = file.clone();
        if *file != updated {
            from = listing.unused(&format!("{file}{LINK}"));
            steps.extend([
                // The same goes for its contents.
                FileOp::Sync { name: file.clone() },
                FileOp::Symlink { target: file.clone(), name: from.clone() },
            ]);
        }
        let aside = match listing.kind(&current) {
            Some(Kind::Link) | None => None,
            // A copy somebody made, which has expired.
            Some(Kind::File) if !damaged.contains(&current) => {
                let kept = listing.unused(&format!("{current}{KEPT}"));
                Some(FileOp::Rename { from: current.clone(), to: kept })
            }
            Some(_) => Some(set_aside(listing, &current)),
        };
        if let Some(aside) = aside.filter(|aside| !steps.contains(aside)) {
            steps.push(aside);
        }
        steps.extend([FileOp::Rename { from, to: current }, FileOp::SyncDir]);
        Plan { steps }
    }
}
