//! The power fails at any step of a write, and any part of the unsynced data survives. Readers must then find a whole
//! pair, or be able to notice that they do not, and a start must complete the files.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use perennial::store::FileOp;
use perennial_pki::Credential;
use perennial_rotation::volume::Volume;
use perennial_rotation::{FileOptions, FileStore, Store as _};
use perennial_tests::disk::{Call, Disk, Fate, Fates, NOW, PATH, Virtual};

use super::{LAYOUTS, files_in, is, load, numbered};

static PAIRS: LazyLock<[Arc<Credential>; 3]> = LazyLock::new(|| [0, 1, 2].map(numbered));

fn store(disk: &Virtual, layout: &str) -> FileStore {
    let volume = |is_private| -> Box<dyn Volume> {
        if is_private { Box::new(disk.at(".perennial")) } else { Box::new(disk.clone()) }
    };
    FileStore::on(files_in(Path::new(PATH), layout), FileOptions::default(), volume).unwrap()
}

/// The result of reading the public files, as other programs do.
#[derive(Debug, PartialEq, Eq)]
enum Public {
    Missing,
    /// Files that are no pair.
    Mixed,
    /// The number of the pair in the files.
    Pair(usize),
}

fn public(disk: &Disk, layout: &str) -> Public {
    let read = |name: &str| disk.read(name).ok().flatten();
    let (certificate, key) = match layout {
        "bundle" => (read("tls.pem"), read("tls.pem")),
        _ => (read("tls.crt"), read("tls.key")),
    };
    match (certificate, key) {
        (None, None) => Public::Missing,
        (Some(certificate), Some(key)) => match Credential::from_pair(&certificate, &key) {
            Ok(found) => Public::Pair(PAIRS.iter().position(|pair| is(Some(&found), pair)).unwrap()),
            Err(_) => Public::Mixed,
        },
        _ => Public::Mixed,
    }
}

/// Each state of the disk while a store writes pair `number`, and whether the write succeeded.
fn states(disk: &Disk, layout: &str, number: usize, fates: Fates) -> (Vec<Disk>, bool, usize) {
    let volume = Virtual::with_fates(disk.clone(), fates);
    let is_written = store(&volume, layout).write(&PAIRS[number], true, NOW).is_ok();
    (volume.seen(), is_written, volume.calls())
}

fn no_fates() -> Fates {
    Box::new(|_, _| Fate::Done)
}

/// The disk after a successful write of pair 0.
fn written(layout: &str) -> Disk {
    let (mut seen, is_written, _) = states(&Disk::default(), layout, 0, no_fates());
    assert!(is_written, "{layout}");
    seen.pop().unwrap()
}

/// Checks a disk that a power loss has left while pair `new` replaced pair `old`. `is_written`: the write had returned.
/// Returns a loss as a sentence.
fn check(disk: &Disk, layout: &str, old: Option<usize>, new: usize, is_written: bool) -> Result<(), String> {
    let found = public(disk, layout);
    let is_good = match &found {
        Public::Pair(number) if is_written => *number == new,
        Public::Pair(number) => *number == new || Some(*number) == old,
        Public::Missing => old.is_none() && !is_written,
        // The documented window of plain paths. The links of the first pair are made one after the other.
        Public::Mixed => !is_written && (layout == "plain" || layout == "linked" && old.is_none()),
    };
    if !is_good {
        return Err(format!("readers find {found:?}"));
    }
    let volume = Virtual::new(disk.clone());
    let restarted = store(&volume, layout);
    let loaded = load(&restarted).credential;
    let loaded = loaded.map(|loaded| PAIRS.iter().position(|pair| is(Some(&loaded), pair)).unwrap());
    if loaded != Some(new) && (is_written || loaded != old) {
        return Err(format!("a start finds {loaded:?}"));
    }
    let completed = public(&volume.disk(), layout);
    if loaded.is_some_and(|loaded| completed != Public::Pair(loaded)) {
        return Err(format!("a start with {loaded:?} leaves {completed:?}"));
    }
    // Enough for one kind of loss: a write depends on what the start has left.
    if is_written {
        return Ok(());
    }
    restarted.write(&PAIRS[2], true, NOW).map_err(|error| format!("the next write fails: {error}"))?;
    let after = volume.disk();
    let names: Vec<_> = after.list().0.into_iter().map(|entry| entry.name).collect();
    let most = if layout == "linked" { 5 } else { 3 };
    if public(&after, layout) != Public::Pair(2) || names.len() > most {
        return Err(format!("the next write leaves {:?} and {names:?}", public(&after, layout)));
    }
    Ok(())
}

/// The names and contents that a power loss left, the layout, the pair before, and whether the write had returned.
type Left = (Vec<(Arc<str>, Arc<[u8]>)>, String, Option<usize>, bool);
/// The results of earlier checks: most losses of a write with a mistake are those of a write without.
static CHECKED: LazyLock<Mutex<HashMap<Left, Result<(), String>>>> = LazyLock::new(Mutex::default);

/// [`check`], once for each disk.
fn check_once(disk: &Disk, layout: &str, old: Option<usize>, is_written: bool) -> Result<(), String> {
    let left = (disk.visible().into_iter().collect(), layout.to_owned(), old, is_written);
    if let Some(known) = CHECKED.lock().unwrap().get(&left) {
        return known.clone();
    }
    let result = check(disk, layout, old, 1, is_written);
    CHECKED.lock().unwrap().insert(left, result.clone());
    result
}

/// The losses after a power failure in any of these states, at most so many. `last_is_written`: the write returned in
/// the last one.
fn losses(seen: &[Disk], layout: &str, old: Option<usize>, last_is_written: bool, most: usize) -> (usize, Vec<String>) {
    let mut checked = BTreeSet::new();
    let mut losses = Vec::new();
    for (number, disk) in seen.iter().enumerate() {
        let is_written = last_is_written && number + 1 == seen.len();
        for left in disk.outcomes() {
            if checked.insert((left.clone(), is_written))
                && let Err(loss) = check_once(&left, layout, old, is_written)
            {
                if losses.len() == most {
                    return (checked.len(), losses);
                }
                losses.push(format!("{layout}, state {number} of {}, from {old:?}: {loss}", seen.len()));
            }
        }
    }
    (checked.len(), losses)
}

#[test]
fn power_loss_at_any_step_loses_no_public_pair() {
    for layout in LAYOUTS {
        for (old, start) in [(None, Disk::default()), (Some(0), written(layout))] {
            let (seen, is_written, _) = states(&start, layout, 1, no_fates());
            assert!(is_written);
            let (outcomes, losses) = losses(&seen, layout, old, true, 5);
            println!("{layout} from {old:?}: {} states, {outcomes} outcomes, {} losses", seen.len(), losses.len());
            assert!(losses.is_empty() && outcomes > 20, "{losses:#?}");
        }
    }
}

#[test]
fn failed_operation_then_power_loss_loses_no_public_pair() {
    for layout in LAYOUTS {
        let (old, start) = (Some(0), written(layout));
        let (_, _, calls) = states(&start, layout, 1, no_fates());
        for failing in 0..calls {
            let fates: Fates = Box::new(move |number, call| match call {
                Call::Open | Call::List | Call::Read(_) => Fate::Done,
                _ if number == failing => Fate::Failed(ErrorKind::StorageFull),
                _ => Fate::Done,
            });
            let (seen, is_written, _) = states(&start, layout, 1, fates);
            // Only the last state: those before are states of a write without a failure.
            let (_, losses) = losses(&seen[seen.len() - 1..], layout, old, is_written, 5);
            assert!(losses.is_empty(), "call {failing}: {losses:#?}");
        }
    }
}

#[test]
fn full_disk_leaves_no_half_of_a_pair() {
    for layout in LAYOUTS {
        let (old, start) = (Some(0), written(layout));
        let (_, _, calls) = states(&start, layout, 1, no_fates());
        for full_from in 0..calls {
            // Renames and removals need no space.
            let fates: Fates = Box::new(move |number, call| match call {
                Call::Op(FileOp::CreateNew { .. } | FileOp::Symlink { .. } | FileOp::Sync { .. })
                | Call::CreateFolder(_)
                    if number >= full_from =>
                {
                    Fate::Failed(ErrorKind::StorageFull)
                }
                _ => Fate::Done,
            });
            let (seen, is_written, _) = states(&start, layout, 1, fates);
            let left = seen.last().unwrap();
            let expected = if is_written { Some(1) } else { old };
            assert_eq!(Some(public(left, layout)), expected.map(Public::Pair), "{layout}, full from call {full_from}");
            let names = left.list().0.into_iter().map(|entry| entry.name);
            let new: Vec<_> = names.filter(|name| name.ends_with(".perennial-new")).collect();
            assert_eq!(new, [""; 0], "{layout}, full from call {full_from}");
        }
    }
}

/// Each sync of public files is necessary: without it, some power failure loses the pair that a write has promised.
#[test]
fn omitting_any_sync_of_public_files_loses_the_pair() {
    for layout in LAYOUTS {
        let (old, start) = (Some(0), written(layout));
        let is_sync = |call: &Call<'_>| matches!(call, Call::Op(FileOp::Sync { .. } | FileOp::SyncDir));
        let syncs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = syncs.clone();
        let counted: Fates = Box::new(move |_, call| {
            count.fetch_add(usize::from(is_sync(&call)), std::sync::atomic::Ordering::Relaxed);
            Fate::Done
        });
        assert!(states(&start, layout, 1, counted).1);
        let syncs = syncs.load(std::sync::atomic::Ordering::Relaxed);
        // The private directory makes three.
        let private = 3;
        for omitted in private..syncs {
            let mut number = 0;
            let fates: Fates = Box::new(move |_, call| {
                number += usize::from(is_sync(&call));
                if is_sync(&call) && number == omitted + 1 { Fate::Skipped } else { Fate::Done }
            });
            let (seen, is_written, _) = states(&start, layout, 1, fates);
            assert!(is_written);
            let (_, losses) = losses(&seen, layout, old, true, 1);
            println!("{layout}, without sync {omitted} of {syncs}: {:?}", losses.first());
            assert!(!losses.is_empty(), "{layout}: nothing needs sync {omitted} of {syncs}");
        }
    }
}

#[test]
fn write_that_failed_at_any_operation_succeeds_when_repeated() {
    for layout in LAYOUTS {
        for (old, start) in [(None, Disk::default()), (Some(0), written(layout))] {
            let (_, _, calls) = states(&start, layout, 1, no_fates());
            for failing in 0..calls {
                let fates: Fates = Box::new(move |number, _| match number == failing {
                    true => Fate::Failed(ErrorKind::StorageFull),
                    false => Fate::Done,
                });
                let volume = Virtual::with_fates(start.clone(), fates);
                // The store of a rotation that goes on, not that of a restart.
                let store = store(&volume, layout);
                let first = store.write(&PAIRS[1], true, NOW);
                let at = format!("{layout} from {old:?}, call {failing}: {first:?}");
                store.write(&PAIRS[1], true, NOW).unwrap_or_else(|error| panic!("{at}, then {error}"));
                let repeated = volume.disk();
                let names: Vec<_> = repeated.list().0.into_iter().map(|entry| entry.name).collect();
                let most = if layout == "linked" { 5 } else { 3 };
                assert!(public(&repeated, layout) == Public::Pair(1) && names.len() <= most, "{at}, then {names:?}");
                for left in repeated.outcomes() {
                    check_once(&left, layout, old, true).unwrap_or_else(|loss| panic!("{at}: {loss}"));
                }
                store.write(&PAIRS[2], true, NOW).unwrap_or_else(|error| panic!("{at}, then {error}"));
                assert_eq!(public(&volume.disk(), layout), Public::Pair(2), "{at}");
            }
        }
    }
}
