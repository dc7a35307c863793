//! Plans for a credential directory in which anything may lie.

use std::collections::BTreeMap;

use perennial::UnixTime;
use perennial::store::{Entry, FileOp, Kind, Layout, Listing, Source};

use super::text;

const PREFIX: &str = "node";
/// Around a minute's end.
const NOW: i64 = 1_767_225_659_998;

/// Whatever lies in the directory: what a plan creates is new, only the two links are replaced, nothing is removed but
/// what the plan itself has created, and the link in use leads to a whole pair at every step.
pub fn directory(bytes: &[u8]) {
    let (when, rest) = text::first(bytes);
    let now = UnixTime::from_millis(match when {
        0..=249 => NOW + i64::from(when % 8),
        250..=252 => i64::MIN + i64::from(when - 250),
        _ => i64::MAX - i64::from(when - 253),
    });
    let (current, updated) = (format!("{PREFIX}-current.pem"), format!("{PREFIX}-updated.pem"));
    let mut there = BTreeMap::new();
    for piece in text::pieces(rest) {
        let (kind, name) = text::first(piece);
        let kind = [Kind::File, Kind::Link, Kind::Other][usize::from(kind % 3)];
        there.insert(String::from_utf8_lossy(&text::expand(name, &words(now))).into_owned(), kind);
    }
    let listing = Listing(there.iter().map(|(name, kind)| Entry { name: name.clone(), kind: *kind }).collect());
    let layout = Layout::new(PREFIX).expect("a usable prefix");
    assert_eq!(layout.current(), current);

    let sources = layout.sources(&listing);
    for source in &sources {
        match source {
            Source::Bundle(name) => assert!(there.contains_key(name)),
            Source::Pair { certificate, key } => assert!(there.contains_key(certificate) && there.contains_key(key)),
        }
    }
    assert_eq!(sources.first() == Some(&Source::Bundle(current.clone())), there.contains_key(&current));

    let is_link = |name| there.get(name).is_none_or(|kind| *kind == Kind::Link);
    let fit = is_link(&current) && is_link(&updated);
    assert_eq!(layout.check(&listing).is_ok(), fit);
    let Ok(plan) = layout.update(&listing, now) else { return assert!(!fit, "{listing:?}") };
    assert!(fit);

    // Created by the plan: whether it is durable, and where it leads if it is a link.
    let mut created: BTreeMap<&str, (bool, Option<&str>)> = BTreeMap::new();
    for (done, step) in plan.steps.iter().enumerate() {
        let undo = plan.undo(done);
        assert!(undo.is_empty() || undo.len() == created.len(), "all or nothing");
        assert!(undo.iter().map(removed).all(|name| created.contains_key(name)), "{undo:?}");
        match step {
            FileOp::CreateNew { name } => {
                assert!(!there.contains_key(name) && created.insert(name, (false, None)).is_none());
            }
            FileOp::Symlink { target, name } => {
                assert!(!there.contains_key(name) && created.insert(name, (false, Some(target))).is_none());
            }
            FileOp::Sync { name } => created.get_mut(name.as_str()).expect("it was created").0 = true,
            FileOp::Rename { from, to } => {
                assert!([&current, &updated].contains(&to));
                let link = created.remove(from.as_str()).expect("it was created");
                let target = link.1.expect("a link");
                assert_eq!(created.get(target), Some(&(true, None)), "a link in use leads to a whole pair");
                created.insert(to, link);
            }
            FileOp::SyncDir => {}
            FileOp::Remove { name } => panic!("{name} is removed"),
        }
    }
    assert!(plan.undo(plan.steps.len()).is_empty());
    assert!(created.contains_key(current.as_str()));
}

fn removed(undo: &FileOp) -> &str {
    match undo {
        FileOp::Remove { name } => name,
        FileOp::CreateNew { .. }
        | FileOp::Sync { .. }
        | FileOp::Symlink { .. }
        | FileOp::Rename { .. }
        | FileOp::SyncDir => panic!("{undo:?} undoes nothing"),
    }
}

/// Names that matter: the fixed ones, and those the plan may choose now and in the next milliseconds.
fn words(now: UnixTime) -> Vec<Vec<u8>> {
    let fixed = ["-current.pem", "-updated.pem", ".crt", ".key"].map(|end| format!("{PREFIX}{end}"));
    let dated = (0..4).map(|later| {
        let at = UnixTime::from_millis(now.as_millis().wrapping_add(later));
        let (year, month, day, hour, minute, second, milli) = at.civil();
        format!("{PREFIX}-{year:04}-{month:02}-{day:02}-{hour:02}-{minute:02}-{second:02}-{milli:03}.pem")
    });
    let suffix = [".link".to_owned(), "x".to_owned()];
    fixed.into_iter().chain(dated).chain(suffix).map(String::into_bytes).collect()
}
