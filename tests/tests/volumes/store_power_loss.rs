//! The power fails at any step of the write of a `VolumeStore`, whose private copy and volume are on one disk.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use perennial::store::Layout;
use perennial_pki::Credential;
use perennial_rotation::volume::Volume;
use perennial_rotation::{Directory, LoadRequest, ProjectedVolume, Projection, Store as _, VolumeStore};
use perennial_tests::disk::{Disk, NOW, PATH, Virtual, pair};

use super::access;

static PAIRS: LazyLock<[Arc<Credential>; 3]> = LazyLock::new(|| [0, 1, 2].map(|number| Arc::new(pair("pod", number))));

fn store(disk: &Virtual) -> VolumeStore {
    let state: Box<dyn Volume> = Box::new(disk.at("state"));
    let private = Directory::on(state, PathBuf::from(PATH).join("state"), Layout::new("pod").unwrap());
    let volume = Arc::new(ProjectedVolume::on(Box::new(disk.clone()), PATH.into()));
    let projection = Projection::Bundle { path: "credential.pem".into() };
    VolumeStore::new(private, volume, projection, access(0o600)).unwrap()
}

fn number_of(credential: &Credential) -> usize {
    PAIRS.iter().position(|pair| pair.chain() == credential.chain()).unwrap()
}

/// The number of the pair in the volume; `None` if there is none.
fn served(disk: &Disk) -> Result<Option<usize>, String> {
    let Ok(Some(bytes)) = disk.read("credential.pem") else { return Ok(None) };
    Credential::from_pem(&bytes).map(|found| Some(number_of(&found))).map_err(|error| error.to_string())
}

/// Checks a disk that a power loss has left while pair 1 replaced pair `old`. `is_written`: the write had returned.
fn check(disk: &Disk, old: Option<usize>, is_written: bool) -> Result<(), String> {
    let is_expected = |found: Option<usize>| found == Some(1) || !is_written && found == old;
    let found = served(disk)?;
    if !is_expected(found) {
        return Err(format!("containers find {found:?}"));
    }
    let disk = Virtual::new(disk.clone());
    let restarted = store(&disk);
    let request = LoadRequest { common_name: None, has_signer: true, now: NOW, keys: None, request_digest: None };
    let loaded = restarted.load(&request).map_err(|error| error.to_string())?;
    let loaded = loaded.credential.map(|found| number_of(&found));
    if !is_expected(loaded) || loaded < found {
        return Err(format!("a start finds {loaded:?}, and containers {found:?}"));
    }
    let completed = served(&disk.disk())?;
    if completed != loaded {
        return Err(format!("a start with {loaded:?} leaves {completed:?}"));
    }
    if !is_written {
        restarted.write(&PAIRS[2], true, NOW).map_err(|error| format!("the next write fails: {error}"))?;
        let names: Vec<String> = disk.disk().list().0.into_iter().map(|entry| entry.name).collect();
        if served(&disk.disk())? != Some(2) || names.len() != 4 {
            return Err(format!("the next write leaves {names:?}"));
        }
    }
    Ok(())
}

#[test]
fn power_loss_at_any_step_loses_no_pair() {
    for old in [None, Some(0)] {
        let disk = Virtual::new(Disk::default());
        if let Some(old) = old {
            store(&disk).write(&PAIRS[old], true, NOW).unwrap();
        }
        let disk = Virtual::new(disk.disk());
        store(&disk).write(&PAIRS[1], true, NOW).unwrap();
        let seen = disk.seen();
        let mut checked = BTreeSet::new();
        for (number, state) in seen.iter().enumerate() {
            let is_written = number + 1 == seen.len();
            for left in state.outcomes() {
                if checked.insert((left.clone(), is_written)) {
                    check(&left, old, is_written)
                        .unwrap_or_else(|loss| panic!("from {old:?}, state {number} of {}: {loss}", seen.len()));
                }
            }
        }
        println!("from {old:?}: {} states, {} outcomes", seen.len(), checked.len());
        assert!(checked.len() > 20);
    }
}
