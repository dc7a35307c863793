//! Fuzzes the plans of file operations for a credential directory with arbitrary entries.

mod contents;

use std::collections::BTreeMap;

use perennial::UnixTime;
use perennial::store::{Dated, Entry, FileOp, Kind, Layout, Listing, Plan, Source};

use super::text;

const PREFIX: &str = "node";
/// A Unix time in milliseconds: two milliseconds before the end of a minute.
const NOW: i64 = 1_767_225_659_998;

/// A directory entry.
#[derive(Clone, Debug, PartialEq)]
enum Thing {
    /// A regular file. The number stands for its contents: files with different numbers have different contents.
    File(usize),
    Link(String),
    Other,
}

type Things = BTreeMap<String, Thing>;

/// Checks the plans of file operations for a directory with any entries. A plan may create an entry only under an
/// unused name. It may replace or remove only files that its operation is about: for example, only a plan to prune
/// removes old pairs. After an update, `PREFIX-current.pem` must lead to the new pair.
pub fn directory(bytes: &[u8]) {
    let (when, rest) = text::first(bytes);
    let now = UnixTime::from_millis(match when {
        0..=249 => NOW + i64::from(when % 8),
        250..=252 => i64::MIN + i64::from(when - 250),
        _ => i64::MAX - i64::from(when - 253),
    });
    let layout = Layout::new(PREFIX).expect("a usable prefix");
    let names: Vec<(u8, String)> = text::pieces(rest)
        .map(|piece| {
            let (kind, name) = text::first(piece);
            (kind, String::from_utf8_lossy(&text::expand(name, &words(now))).into_owned())
        })
        .collect();
    let mut things = Things::new();
    for (index, (kind, name)) in names.iter().enumerate() {
        let target = || names[usize::from(*kind) % names.len()].1.clone();
        let thing = match kind % 3 {
            0 => Thing::File(index),
            1 => Thing::Link(target()),
            _ => Thing::Other,
        };
        things.insert(name.clone(), thing);
    }

    let updated = run(&things, &layout.update(&listing(&things), now), &[]);
    let Some(Thing::Link(file)) = updated.get(&layout.current()) else { panic!("no link in use: {updated:?}") };
    assert_eq!(updated.get(file), Some(&Thing::File(NEW)));
    check_nothing_is_lost(&things, &updated);

    let entries = listing(&things);
    let sources: Vec<Source> = layout.sources(&entries).into_iter().chain(layout.others(&entries)).collect();
    // Some files cannot be read; a start may use one of the others.
    let is_unreadable = |index: usize| (usize::from(when) >> (index % 8)) & 1 == 1;
    let readable = sources.iter().enumerate().filter(|(index, _)| !is_unreadable(*index)).map(|(_, source)| source);
    let taken = readable.into_iter().find(|source| match source {
        Source::Bundle(name) => entries.file_behind(name).is_some(),
        Source::Pair { .. } => false,
    });
    let vacant = leads_nowhere(&things, &layout.current());
    let recovered = run(&things, &layout.recover(&entries, vacant, taken, now), &[]);
    let may_change = |name: &String| {
        let is_link = matches!(things.get(name), Some(Thing::Link(_)));
        vacant && is_link && (*name == layout.current() || *name == layout.updated())
    };
    let others = things.iter().filter(|(name, _)| !may_change(name));
    others.for_each(|(name, thing)| assert_eq!(recovered.get(name), Some(thing), "{name} may be in use"));

    let dated = things.keys().map(|name| Dated { name: name.clone(), not_before: now }).collect::<Vec<_>>();
    let plan = layout.prune(&entries, &dated, 1 + usize::from(when) % 3, things.keys().next().map(String::as_str));
    let gone: Vec<&str> = plan.steps.iter().map(removed).collect();
    let in_use = [layout.current(), layout.updated()];
    let in_use: Vec<&str> = in_use.iter().filter_map(|name| entries.file_behind(name)).collect();
    assert!(gone.iter().all(|name| name.starts_with(PREFIX) && !in_use.contains(name)), "{gone:?}");
    run(&things, &plan, &gone);

    let plan = layout.sweep(&entries);
    let gone: Vec<&str> = plan.steps.iter().map(removed).collect();
    assert!(gone.iter().all(|name| name.starts_with(PREFIX) && (name.ends_with(".new") || name.contains(".link"))));
    run(&things, &plan, &gone);

    let new = format!("{}.new", layout.pending());
    if things.get(&new) != Some(&Thing::Other) {
        let remembered = run(&things, &layout.remember(&entries), &[&new]);
        assert_eq!(remembered.get(&layout.pending()), Some(&Thing::File(NEW)));
    }

    contents::contents(&things, &names, now);
}

/// The number in [`Thing::File`] for the contents of a file that the plan itself has created ([`FileOp::CreateNew`]).
const NEW: usize = usize::MAX;

fn listing(things: &Things) -> Listing {
    let entry = |(name, thing): (&String, &Thing)| {
        let (kind, target) = match thing {
            Thing::File(_) => (Kind::File, None),
            Thing::Link(target) => (Kind::Link, Some(target.clone())),
            Thing::Other => (Kind::Other, None),
        };
        Entry { name: name.clone(), kind, target }
    };
    Listing(things.iter().map(entry).collect())
}

/// Carries out a plan, which may remove only the names in `may_go`. Checks before each step that the undo of the steps
/// so far would remove only entries that this plan has made. Returns the entries after the plan.
fn run(before: &Things, plan: &Plan, may_go: &[&str]) -> Things {
    let mut things = before.clone();
    for (done, step) in plan.steps.iter().enumerate() {
        let mut undone = things.clone();
        for step in plan.undo(done) {
            let thing = undone.remove(removed(&step));
            assert!(
                thing.is_some() && before.get(removed(&step)) != thing.as_ref(),
                "{step:?} removes an entry that was there before"
            );
        }
        match step {
            FileOp::CreateNew { name } => assert!(things.insert(name.clone(), Thing::File(NEW)).is_none(), "{name}"),
            FileOp::Symlink { target, name } => {
                assert!(things.insert(name.clone(), Thing::Link(target.clone())).is_none(), "{name}");
            }
            FileOp::Link { file, name } => {
                let thing = things.get(file).expect("a file to link").clone();
                assert!(things.insert(name.clone(), thing).is_none(), "{name}");
            }
            FileOp::Rename { from, to } => {
                let thing = things.remove(from).expect("an entry to rename");
                things.insert(to.clone(), thing);
            }
            FileOp::Remove { name } => {
                assert!(may_go.contains(&name.as_str()) && things.remove(name).is_some(), "{name}")
            }
            FileOp::Sync { name } => assert!(things.contains_key(name), "{name}"),
            FileOp::SyncDir => {}
        }
    }
    things
}

/// True if the name leads to no entry: the name does not exist, or is a link whose chain of links ends at a missing
/// name or forms a loop.
fn leads_nowhere(things: &Things, name: &str) -> bool {
    let mut name = name;
    for _ in 0..=things.len() {
        match things.get(name) {
            None => return true,
            Some(Thing::Link(target)) => name = target,
            Some(Thing::File(_) | Thing::Other) => return false,
        }
    }
    true
}

fn check_nothing_is_lost(before: &Things, after: &Things) {
    let kept = |thing: &&Thing| after.values().any(|now| now == *thing);
    let lost = before.values().find(|thing| !matches!(thing, Thing::Link(_)) && !kept(thing));
    assert_eq!(lost, None, "{before:?} became {after:?}");
}

fn removed(undo: &FileOp) -> &str {
    match undo {
        FileOp::Remove { name } => name,
        other => panic!("{other:?} removes nothing"),
    }
}

/// Words for the names of entries: fixed names such as `PREFIX-current.pem`, the dated names that a plan may choose now
/// and in the next milliseconds, and suffixes.
fn words(now: UnixTime) -> Vec<Vec<u8>> {
    let fixed = ["-current.pem", "-updated.pem", ".crt", ".key", "-pending.json", "-pending.json.new"]
        .map(|end| format!("{PREFIX}{end}"));
    let dated = (0..4).map(|later| {
        let at = UnixTime::from_millis(now.as_millis().wrapping_add(later));
        let (year, month, day, hour, minute, second, milli) = at.civil();
        format!("{PREFIX}-{year:04}-{month:02}-{day:02}-{hour:02}-{minute:02}-{second:02}-{milli:03}.pem")
    });
    let suffix = [".link".to_owned(), ".new".to_owned(), ".bad".to_owned(), "x".to_owned()];
    fixed.into_iter().chain(dated).chain(suffix).map(String::into_bytes).collect()
}
