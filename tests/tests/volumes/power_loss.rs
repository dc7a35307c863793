//! The power fails at any step of a write to a volume with the files of two sources. Readers must then find the files
//! before or after the write, and the next write must complete the volume.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use perennial::store::FileOp;
use perennial_rotation::{ProjectedFile, ProjectedVolume};
use perennial_tests::disk::{Call, Disk, Fate, Fates, NOW, PATH, Virtual};

use super::file;

/// One change of a volume: the first source replaces its files, in the root and in a directory.
fn replace_first(volume: &ProjectedVolume) -> bool {
    volume.set(&first("1"), NOW).is_ok()
}

fn first(contents: &str) -> [ProjectedFile; 2] {
    [file("a", contents), file("tls/b", contents)]
}

fn on(disk: &Virtual) -> ProjectedVolume {
    ProjectedVolume::on(Box::new(disk.clone()), PathBuf::from(PATH))
}

fn no_fates() -> Fates {
    Box::new(|_, _| Fate::Done)
}

/// A volume with both sources' files; those of the second are carried over by later writes.
fn both() -> Disk {
    let disk = Virtual::new(Disk::default());
    on(&disk).set(&first("0"), NOW).unwrap();
    on(&disk).set(&[file("c", "0")], NOW).unwrap();
    disk.disk()
}

/// Each state of the disk during a change, whether the change succeeded, and the number of calls.
fn states(start: &Disk, fates: Fates, change: fn(&ProjectedVolume) -> bool) -> (Vec<Disk>, bool, usize) {
    let disk = Virtual::with_fates(start.clone(), fates);
    let is_done = change(&on(&disk));
    (disk.seen(), is_done, disk.calls())
}

type Read = BTreeMap<&'static str, String>;

fn read(disk: &Disk) -> Read {
    let text = |name| Some(String::from_utf8_lossy(&disk.read(name).ok()??).into_owned());
    ["a", "tls/b", "c"].into_iter().filter_map(|name| Some((name, text(name)?))).collect()
}

fn expected(first: &str) -> Read {
    [("a", first), ("tls/b", first), ("c", "0")].map(|(name, contents)| (name, contents.into())).into()
}

/// Checks a disk that a power loss has left. `is_done`: the change had returned.
fn check(disk: &Disk, is_done: bool) -> Result<(), String> {
    let found = read(disk);
    if found != expected("1") && (is_done || found != expected("0")) {
        return Err(format!("readers find {found:?}"));
    }
    let disk = Virtual::new(disk.clone());
    on(&disk).set(&first("2"), NOW).map_err(|error| format!("the next write fails: {error}"))?;
    let names: Vec<String> = disk.disk().list().0.into_iter().map(|entry| entry.name).collect();
    if read(&disk.disk()) != expected("2") || names.len() != 5 {
        return Err(format!("the next write leaves {:?} and {names:?}", read(&disk.disk())));
    }
    Ok(())
}

/// The number of disks that a power failure in any of these states may leave, and the first loss. `last_is_done`: the
/// change had returned in the last state.
fn losses(seen: &[Disk], last_is_done: bool) -> (usize, Option<String>) {
    let mut checked = BTreeSet::new();
    for (number, disk) in seen.iter().enumerate() {
        let is_done = last_is_done && number + 1 == seen.len();
        for left in disk.outcomes() {
            if checked.insert((left.clone(), is_done))
                && let Err(loss) = check(&left, is_done)
            {
                return (checked.len(), Some(format!("state {number} of {}: {loss}", seen.len())));
            }
        }
    }
    (checked.len(), None)
}

#[test]
fn power_loss_at_any_step_leaves_files_of_one_moment() {
    let (seen, is_done, _) = states(&both(), no_fates(), replace_first);
    assert!(is_done);
    let (outcomes, loss) = losses(&seen, true);
    println!("{} states, {outcomes} outcomes", seen.len());
    assert!(loss.is_none() && outcomes > 20, "{loss:?}");
}

#[test]
fn power_loss_during_first_write_leaves_nothing_or_file() {
    let (seen, is_done, _) = states(&Disk::default(), no_fates(), |volume| volume.set(&[file("a", "1")], NOW).is_ok());
    assert!(is_done);
    for (number, disk) in seen.iter().enumerate() {
        for left in disk.outcomes() {
            let found = read(&left);
            let is_whole = found == BTreeMap::from([("a", "1".to_owned())]);
            assert!(is_whole || found.is_empty() && number + 1 < seen.len(), "state {number}: {found:?}");
            let disk = Virtual::new(left);
            on(&disk).set(&[file("a", "2")], NOW).unwrap();
            assert_eq!(read(&disk.disk()), BTreeMap::from([("a", "2".to_owned())]));
            assert_eq!(disk.disk().list().0.len(), 3);
        }
    }
}

#[test]
fn failed_operation_then_power_loss_leaves_files_of_one_moment() {
    let start = both();
    let (_, _, calls) = states(&start, no_fates(), replace_first);
    for failing in 0..calls {
        let fates: Fates = Box::new(move |number, _| match number == failing {
            true => Fate::Failed(ErrorKind::StorageFull),
            false => Fate::Done,
        });
        let disk = Virtual::with_fates(start.clone(), fates);
        let volume = on(&disk);
        let is_done = replace_first(&volume);
        let (_, loss) = losses(&[disk.disk()], is_done);
        assert!(loss.is_none(), "call {failing}: {loss:?}");
        // The rotation repeats a failed write.
        assert!(replace_first(&volume), "call {failing}");
        let (_, loss) = losses(&[disk.disk()], true);
        assert!(loss.is_none(), "call {failing}, repeated: {loss:?}");
    }
}

/// Each sync is necessary: without it, some power failure leaves files of two moments, or loses those of a write that
/// returned.
#[test]
fn omitting_any_sync_of_volume_loses_files() {
    let start = both();
    let is_sync = |call: &Call<'_>| matches!(call, Call::Op(FileOp::Sync { .. } | FileOp::SyncDir));
    let syncs = Arc::new(AtomicUsize::new(0));
    let count = syncs.clone();
    let counted: Fates = Box::new(move |_, call| {
        count.fetch_add(usize::from(is_sync(&call)), Ordering::Relaxed);
        Fate::Done
    });
    assert!(states(&start, counted, replace_first).1);
    // Two files, the directory inside, the new directory, its name, and the switch.
    assert_eq!(syncs.load(Ordering::Relaxed), 6);
    for omitted in 0..6 {
        let number = Mutex::new(0);
        let fates: Fates = Box::new(move |_, call| {
            let mut number = number.lock().unwrap();
            *number += usize::from(is_sync(&call));
            if is_sync(&call) && *number == omitted + 1 { Fate::Skipped } else { Fate::Done }
        });
        let (seen, is_done, _) = states(&start, fates, replace_first);
        assert!(is_done);
        let (_, loss) = losses(&seen, true);
        assert!(loss.is_some(), "nothing needs sync {omitted}");
    }
}
