//! Recovery at a start: finds the pairs of a directory, chooses the pair to use, and repairs the links.

use alloc::format;
use alloc::vec::Vec;

use super::{BAD, FileOp, Kind, LINK, Layout, Listing, Plan, Source};
use crate::certificate::Validity;
use crate::time::UnixTime;

/// The number of dated files that a start reads at most. Bounds the time of a start in a directory that is never
/// pruned.
const MOST_DATED: usize = 1000;
/// The form of the time in a dated name: each zero stands for any digit.
const TIME: &str = "0000-00-00-00-00-00-000";

/// A pair that was found in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// True if the pair was found under a name of [`Layout::sources`].
    pub in_use: bool,
    /// The common name of the certificate.
    pub common_name: &'a str,
    /// The validity period of the certificate.
    pub validity: Validity,
}

impl Layout {
    /// Sources of pairs that are not in use: the [`dated`](Self::dated) files, newest name first, and `PREFIX.crt` with
    /// `PREFIX.key`, the names that kubelet used before it rotated certificates.
    pub fn others(&self, listing: &Listing) -> Vec<Source> {
        let (certificate, key) = (format!("{}.crt", self.prefix), format!("{}.key", self.prefix));
        let pair = listing.kind(&certificate).is_some() && listing.kind(&key).is_some();
        let dated = self.dated(listing).into_iter().map(|name| Source::Bundle(name.into()));
        dated.chain(pair.then_some(Source::Pair { certificate, key })).collect()
    }

    /// Whether the directory has a file of this certificate: a pair, valid or not, or a pending record.
    pub fn is_used(&self, listing: &Listing) -> bool {
        let record = listing.kind(&self.pending()).is_some();
        record || !self.sources(listing).is_empty() || !self.others(listing).is_empty()
    }

    /// Entries that an update has quarantined, for a person to inspect and remove. Their names end in `.bad`, or in
    /// `.kept` if perennial 0.1.0 wrote them.
    pub fn quarantined<'a>(&'a self, listing: &'a Listing) -> impl Iterator<Item = &'a str> {
        let is_quarantined = |name: &&str| {
            let ours = name.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.starts_with('-'));
            let plain = name.trim_end_matches(|c: char| c.is_ascii_digit());
            ours && (plain.ends_with(BAD) || plain.ends_with(".kept"))
        };
        listing.0.iter().map(|entry| entry.name.as_str()).filter(is_quarantined)
    }

    /// Regular files with dated names, newest name first, a thousand at most. Includes the files of a kubelet, whose
    /// names are in local time.
    pub fn dated<'a>(&self, listing: &'a Listing) -> Vec<&'a str> {
        let files = listing.0.iter().filter(|entry| entry.kind == Kind::File).map(|entry| entry.name.as_str());
        let mut dated: Vec<&str> = files.filter(|name| self.is_dated(name)).collect();
        dated.sort_unstable_by(|a, b| b.cmp(a));
        dated.truncate(MOST_DATED);
        dated
    }

    /// Whether this is a dated name of this prefix, with or without milliseconds.
    pub(super) fn is_dated(&self, name: &str) -> bool {
        let time = name.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let time = time.and_then(|rest| rest.strip_suffix(".pem"));
        let fits = |(byte, form): (u8, u8)| if form == b'-' { byte == b'-' } else { byte.is_ascii_digit() };
        // A kubelet's name has no milliseconds. Any other form may belong to a longer prefix.
        time.is_some_and(|time| matches!(time.len(), 19 | 23) && time.bytes().zip(TIME.bytes()).all(fits))
    }

    /// True for the names of files that hold a private key of this certificate: `PREFIX-current.pem`,
    /// `PREFIX-updated.pem`, dated names and `PREFIX.key`.
    pub fn is_ours(&self, name: &str) -> bool {
        let is_link = name == self.current() || name == self.updated();
        is_link || self.is_dated(name) || name.strip_prefix(self.prefix.as_str()) == Some(".key")
    }

    /// The index of the pair to use. Prefers a pair that is valid at `now`, then the pair in use, then the pair that
    /// expires last. A pair that is not in use counts only if its common name is among `names`, or `names` is empty.
    /// `None`: no pair counts.
    pub fn best(found: &[Found<'_>], names: &[&str], now: UnixTime) -> Option<usize> {
        let fits = |pair: &Found<'_>| pair.in_use || names.is_empty() || names.contains(&pair.common_name);
        let rank = |Found { in_use, validity, .. }: &Found<'_>| {
            let valid = validity.not_before() <= now && !validity.expired(now);
            (valid, *in_use, validity.not_after(), validity.not_before())
        };
        // Reversed, since `max_by_key` returns the last of equals: the first has the newer name.
        let fitting = (0..found.len()).rev().filter(|index| fits(&found[*index]));
        fitting.max_by_key(|index| rank(&found[*index]))
    }

    /// The repairs of a start that has chosen the pair at `taken`. Makes that pair durable, since a killed update may
    /// not have done so. If `vacant`, that is, if `PREFIX-current.pem` resolves to nothing, links that name to the
    /// pair. Every other entry stays as it is, since another program may be reading it. The plan is empty if the pair
    /// is in two files, or if there is no pair.
    pub fn recover(&self, listing: &Listing, vacant: bool, taken: Option<&Source>, mut now: UnixTime) -> Plan {
        let Some(Source::Bundle(file)) = taken else { return Plan::default() };
        let (current, updated) = (self.current(), self.updated());
        let mut steps = Vec::new();
        let mut file = file.clone();
        match listing.kind(&file) {
            // Complete an interrupted update by its last step.
            Some(Kind::Link) if vacant && file == updated => steps.push(FileOp::Rename { from: file, to: current }),
            Some(Kind::File) if vacant => {
                if file == updated {
                    // The next update replaces `PREFIX-updated.pem`, so the file needs a name of its own.
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
