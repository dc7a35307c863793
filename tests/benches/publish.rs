//! Measures the time to publish a snapshot, and the time to read the credential, beside idle threads that have read the
//! credential before: `cargo bench -p perennial-tests --bench publish`.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use perennial::Template;
use perennial_pki::interim;
use perennial_rotation::{Handle, Memory, Rotator, Store as _, clock};
use perennial_tests::bench::{median_time, sized};

fn main() {
    let store = Memory::default();
    let pair = Arc::new(interim(&Template::node("worker-1"), clock::now().unix).unwrap());
    store.write(&pair, true, clock::now().unix).unwrap();
    let (handle, mut task) = Rotator::new().store(store).prepare().unwrap();
    // Alternates between a template that the credential does not satisfy and none: each makes another snapshot.
    let mut wanted = [Some(Template::node("worker-2")), None].into_iter().cycle();
    let mut publish = || {
        handle.set_template(wanted.next().flatten()).unwrap();
        drop(black_box(task.step(clock::now())));
    };
    let mut alone = None;
    for threads in sized([1, 100, 1000], [1, 2, 3]) {
        let (published, read) = beside(threads, &handle, || (time(&mut publish), time(|| drop(handle.credential()))));
        let alone = *alone.get_or_insert((published, read));
        let ratio = |now: Duration, then: Duration| now.as_secs_f64() / then.as_secs_f64();
        println!(
            "{threads:5} threads: publish {published:>8.2?} (x{:.2}), credential {read:>7.0?} (x{:.2})",
            ratio(published, alone.0),
            ratio(read, alone.1)
        );
    }
}

/// Starts this many threads, each of which reads the credential and then idles. Calls `work` while they idle, and
/// returns the result of `work`.
fn beside<T>(threads: usize, handle: &Handle, work: impl FnOnce() -> T) -> T {
    let (ready, done) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                black_box(handle.credential()).unwrap();
                ready.wait();
                done.wait();
            });
        }
        ready.wait();
        let result = work();
        done.wait();
        result
    })
}

/// The median time of one call.
fn time(work: impl FnMut()) -> Duration {
    median_time(sized(2_000, 1), work)
}
