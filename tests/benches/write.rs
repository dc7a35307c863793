//! Measures the time to write a pair to a credential directory, and prints the file operations of a write: `cargo bench
//! -p perennial-tests --bench write`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use perennial_rotation::Directory;
use perennial_tests::bench::sized;
use perennial_tests::disk::{Call, Disk, Fate, NODE, NOW, PREFIX, Virtual, pair};

fn main() {
    let pairs = [1, 2].map(|number| pair(NODE, number));
    let volume = Virtual::new(Disk::default());
    let directory = volume.directory();
    // As many pairs as are retained, so that the next write removes one.
    (0..2).for_each(|n| directory.write(&pairs[n], NOW).unwrap());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    volume.set_fates(Box::new(move |_, call| {
        if let Call::Op(op) = call {
            seen.lock().unwrap().push(format!("{op:?}"));
        }
        Fate::Done
    }));
    directory.write(&pairs[0], NOW).unwrap();
    calls.lock().unwrap().iter().for_each(|call| println!("  {call}"));

    let times = sized(200, 2);
    for (what, parent) in [("here", tempfile::tempdir_in(".")), ("in memory", tempfile::tempdir_in("/dev/shm"))] {
        let Ok(parent) = parent else { continue };
        let directory = Directory::open(parent.path(), PREFIX).unwrap();
        let mut took: Vec<Duration> = (0..times)
            .map(|n| {
                let begun = Instant::now();
                directory.write(&pairs[n % 2], NOW).unwrap();
                begun.elapsed()
            })
            .collect();
        took.sort_unstable();
        println!("{what}: median {:?}, of {times} the slowest {:?}", took[times / 2], took[times - 1]);
    }
}
