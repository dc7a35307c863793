//! Checks that each test named in `threads.md` (threads from the field) or `weaknesses.md` (weaknesses of the reference
//! implementation) exists. Contains the named tests that fit into no other file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use perennial::UnixTime;
use perennial::store::{Entry, FileOp, Kind, Layout, Listing};

const LIST: &str = include_str!("threads.md");
const WEAKNESSES: &str = include_str!("weaknesses.md");

fn cells(line: &'static str) -> Vec<&'static str> {
    line.split('|').map(str::trim).collect()
}

/// The rows of `threads.md`: thread, file and test.
fn rows() -> Vec<[&'static str; 3]> {
    let rows = LIST.lines().filter(|line| line.starts_with("| https://")).map(cells);
    rows.map(|cells| [cells[1], cells[2], cells[3]]).collect()
}

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn each_thread_in_threads_md_has_an_existing_test() {
    let rows = rows();
    for [thread, file, test] in &rows {
        let text = source(file);
        assert!(text.contains(&format!("fn {test}(")), "{thread}: there is no {test} in {file}");
        assert!(text.contains(thread), "{file} does not say that it is about {thread}");
    }
    assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len(), "each row is there once");
    let threads: BTreeSet<&str> = rows.iter().map(|[thread, ..]| *thread).collect();
    println!("threads: {} rows: {}", threads.len(), rows.len());
}

#[test]
fn each_weakness_in_weaknesses_md_has_a_test_or_a_reason() {
    let mut seen = BTreeSet::new();
    for row in WEAKNESSES.lines().map(cells) {
        let [_, number, _, file, test, remark, _] = row.as_slice() else { continue };
        let Ok(number) = number.parse::<u8>() else { continue };
        match *file {
            "—" => assert!(remark.starts_with("because "), "{number}: why not?"),
            file => assert!(source(file).contains(&format!("fn {test}(")), "{number}: there is no {test} in {file}"),
        }
        seen.insert(number);
    }
    assert_eq!(seen, (1..=41).collect());
}

#[test]
fn dated_files_sort_by_utc_time() {
    let layout = Layout::new("kubelet-client").unwrap();
    let names = [1_792_886_400, 1_792_888_200, 1_792_890_000].map(|at| {
        let update = layout.update(&Listing::default(), UnixTime::from_secs(at));
        let made = update.steps.into_iter().find_map(|step| match step {
            FileOp::Rename { to, .. } | FileOp::Link { name: to, .. } if to.starts_with("kubelet-client-20") => {
                Some(to)
            }
            _ => None,
        });
        made.unwrap()
    });
    // In Berlin this is two o'clock, half past two, and two o'clock.
    assert_eq!(names[1], "kubelet-client-2026-10-25-00-30-00-000.pem");
    assert!(names.is_sorted() && names[0] < names[1] && names[1] < names[2], "{names:?}");
}

#[test]
fn each_thread_cited_by_load_scenarios_is_in_threads_md() {
    let listed: BTreeSet<&str> = rows().into_iter().map(|[thread, ..]| thread).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/load");
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        let text = fs::read_to_string(entry.path()).unwrap();
        for thread in text.split('<').filter_map(|rest| rest.strip_prefix("https://")?.split_once('>')) {
            let thread = format!("https://{}", thread.0);
            assert!(listed.contains(thread.as_str()), "{thread}, of {}, is not", entry.path().display());
        }
    }
}

/// A program that watches the name `PREFIX-current.pem`, such as Envoy, notices a new pair only if a file is renamed to
/// that name: <https://github.com/envoyproxy/envoy/issues/10979>
#[test]
fn new_pair_is_renamed_to_the_name_that_other_programs_watch() {
    let layout = Layout::new("kubelet-client").unwrap();
    let link = |target: &str| Entry { name: layout.current(), kind: Kind::Link, target: Some(target.into()) };
    let file = |name: &str| Entry { name: name.into(), kind: Kind::File, target: None };
    let before = [
        Listing::default(),
        Listing(vec![file("kubelet-client-2026-01-01-00-00-00.pem"), link("kubelet-client-2026-01-01-00-00-00.pem")]),
    ];
    for listing in before {
        let update = layout.update(&listing, UnixTime::from_secs(1_800_000_000));
        let name = layout.current();
        let moved = update.steps.iter().filter(|step| matches!(step, FileOp::Rename { to, .. } if *to == name));
        assert_eq!(moved.count(), 1, "{update:?}");
        let touched = update.steps.iter().any(|step| match step {
            FileOp::CreateNew { name: made } | FileOp::Symlink { name: made, .. } | FileOp::Link { name: made, .. } => {
                *made == name
            }
            FileOp::Remove { name: gone } | FileOp::Rename { from: gone, .. } => *gone == name,
            FileOp::Sync { .. } | FileOp::SyncDir => false,
        });
        assert!(!touched, "it is there all the time: {update:?}");
    }
}
