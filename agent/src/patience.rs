//! A time limit for reading credentials from files, for loops that must not wait for a disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use perennial_rotation::{Identity, IdentitySource, NotYet};

/// Time limit for reading a credential. A loop that waits this long does not count as hanging: that takes 60 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// Wraps an identity source so that reading its credential fails after five seconds. A later read may succeed.
pub(crate) fn bounded(source: Arc<dyn IdentitySource>) -> Arc<dyn IdentitySource> {
    within(PATIENCE, source)
}

/// Wraps an identity source so that each read runs on a thread of its own, within the time limit `most`. While a read
/// hangs, further reads fail at once. If the system refuses a thread, the caller's thread reads, without a limit.
fn within(most: Duration, source: Arc<dyn IdentitySource>) -> Arc<dyn IdentitySource> {
    let busy = Arc::new(AtomicBool::new(false));
    Arc::new(move || {
        let late = || {
            let reason = format!("reading the credential takes longer than {most:?}: its disk does not answer");
            Err(NotYet::new(reason))
        };
        let panicked = || Err(NotYet::new("reading the credential panicked; please report this as a bug"));
        if busy.swap(true, Ordering::SeqCst) {
            return late();
        }
        let (found, result) = mpsc::channel::<Result<Identity, NotYet>>();
        let (reader, done) = (source.clone(), busy.clone());
        let read = move || {
            let identity = catch_unwind(AssertUnwindSafe(|| reader.identity()));
            // Before the send, so that the receiver can read again at once.
            done.store(false, Ordering::SeqCst);
            // The receiver is gone if the read was given up.
            drop(found.send(identity.unwrap_or_else(|_| panicked())));
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
    fn identity_source_that_hangs_fails_until_its_read_returns() {
        let (release, hold) = mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let source = within(
            Duration::from_millis(20),
            Arc::new(move || {
                hold.lock().unwrap().recv().unwrap();
                Err(NotYet::new("read"))
            }),
        );
        // While the first read hangs, the second is not started.
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

    #[test]
    fn identity_source_that_panicked_is_read_again() {
        let has_panicked = AtomicBool::new(false);
        let source = within(
            Duration::from_secs(60),
            Arc::new(move || {
                assert!(has_panicked.swap(true, Ordering::SeqCst), "a bug in the source");
                Ok(Identity::Anonymous)
            }),
        );
        assert!(source.identity().unwrap_err().to_string().contains("panicked"));
        assert!(source.identity().is_ok());
    }
}
