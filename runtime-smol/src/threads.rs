//! Threads for work that may block. They stay a few seconds after their work, for the next work.
//!
//! Not the threads of smol's pool: a store, a signer or a resolver that hangs would keep one of them from the program.

use std::cell::Cell;
use std::io;
use std::sync::mpsc::{self, Receiver, SendError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// How long a thread stays without work.
const LINGER: Duration = Duration::from_secs(3);

/// Work for a thread. It may call its argument once all that may block or hang is done, and before it reports the result:
/// its thread then takes other work, so that work that follows from the result needs no other thread.
type Work = Box<dyn FnOnce(&dyn Fn()) + Send>;

/// Gives work to a thread, and with it the way to reach the thread again.
struct Post(Sender<(Work, Self)>);

/// The threads of this process that are free.
static FREE: Mutex<Vec<(ThreadId, Post)>> = Mutex::new(Vec::new());

fn free() -> MutexGuard<'static, Vec<(ThreadId, Post)>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does the work on a thread that is free, or on a new one.
///
/// # Errors
/// No thread is free, and the operating system cannot start one. The work is dropped.
pub(crate) fn run(work: impl FnOnce(&dyn Fn()) + Send + 'static) -> io::Result<()> {
    let mut work: Work = Box::new(work);
    // The last that has become free, so that the others can end.
    while let Some((_, post)) = take() {
        match post.0.clone().send((work, post)) {
            Ok(()) => return Ok(()),
            // The work before this one panicked after it had freed its thread.
            Err(SendError((back, _))) => work = back,
        }
    }
    let (post, posted) = mpsc::channel();
    let serve = move || serve(work, Post(post), &posted);
    thread::Builder::new().name("perennial-work".into()).spawn(serve).map(drop)
}

/// A function of its own, so that the list is not locked while work is given to the thread.
fn take() -> Option<(ThreadId, Post)> {
    free().pop()
}

/// Does work until none has come for [`LINGER`].
fn serve(mut work: Work, mut post: Post, posted: &Receiver<(Work, Post)>) {
    let own = thread::current().id();
    loop {
        let post_once = Cell::new(Some(post));
        let freed = || free().extend(post_once.take().map(|post| (own, post)));
        work(&freed);
        freed();
        let Some(next) = next_post(own, posted) else { return };
        (work, post) = next;
    }
}

/// The next work of this thread; `None` if none has come for [`LINGER`].
fn next_post(own: ThreadId, posted: &Receiver<(Work, Post)>) -> Option<(Work, Post)> {
    if let Ok(next) = posted.recv_timeout(LINGER) {
        return Some(next);
    }
    let mut free = free();
    if let Some(index) = free.iter().position(|(id, _)| *id == own) {
        free.swap_remove(index);
        return None;
    }
    drop(free);
    // `run` has taken this thread, and gives it work now.
    posted.recv().ok()
}
