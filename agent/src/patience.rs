//! Credentials that are read from files, for loops that must not wait for a disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use perennial_rotation::{Identity, IdentitySource, NotYet};

/// A loop that waits for longer would be taken for one that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reading the credential of this source fails after five seconds.
pub(crate) fn bounded(source: Arc<dyn IdentitySource>) -> Arc<dyn IdentitySource> {
    within(PATIENCE, source)
}

/// Reads on a thread of its own, one at a time: while one hangs, no other is begun.
fn within(most: Duration, source: Arc<dyn IdentitySource>) -> Arc<dyn IdentitySource> {
    let busy = Arc::new(AtomicBool::new(false));
    Arc::new(move || {
        let late = || {
            let reason = format!("reading the credential takes longer than {most:?}: its disk does not answer");
            Err(NotYet::new(reason))
        };
        if busy.swap(true, Ordering::SeqCst) {
            return late();
        }
        let (found, result) = mpsc::channel::<Result<Identity, NotYet>>();
        let (reader, done) = (source.clone(), busy.clone());
        let read = move || {
            let identity = reader.identity();
            done.store(false, Ordering::SeqCst);
            // It may have been given up.
            drop(found.send(identity));
        };
        if thread::Builder::new().name("credential".into()).spawn(read).is_err() {
            busy.store(false, Ordering::SeqCst);
            return source.identity();
        }
        result.recv_timeout(most).unwrap_or_else(|_| late())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    #[test]
    fn source_that_hangs_is_given_up_until_it_returns() {
        let (release, hold) = mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let source = within(
            Duration::from_millis(20),
            Arc::new(move || {
                hold.lock().unwrap().recv().unwrap();
                Err(NotYet::new("read"))
            }),
        );
        // The second one is not even begun.
        for _ in 0..2 {
            assert!(source.identity().unwrap_err().to_string().contains("its disk does not answer"));
        }
        release.send(()).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            release.send(()).unwrap();
            if source.identity().unwrap_err() == NotYet::new("read") {
                return;
            }
            assert!(Instant::now() < end);
        }
    }
}
