//! [`ApiServer`]: the embedded API server on a socket. One task for each client, all on one thread.

mod client;
mod clients;

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_io::{Async, Timer};
use event_listener::Event;
use perennial::UnixTime;
use perennial_rotation::clock;
use smol::LocalExecutor;
use smol::channel::{self, Receiver, Sender};
use smol::future::{or, yield_now};

use crate::{Api, Tls};
use clients::Clients;

/// Number of clients beyond [`Options::clients`](super::Options::clients) that the server still answers, with 429. The
/// connections of further clients are closed without an answer.
const MOST_TURNED_AWAY: usize = 64;
/// Largest number of connections that the operating system queues until the server accepts them. A client that finds
/// the queue full waits for a second or more, until its operating system tries again. Linux caps the number at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Size of the buffer for reads, in bytes. All clients share one buffer.
const READ_SIZE: usize = 16 * 1024;
/// Number of polls of clients' tasks between two polls of the reactor, which reports the sockets that are ready.
const STEPS_PER_POLL: usize = 32;
/// Longest sleep of the controllers. Their deadlines are wall-clock times: if the wall clock is set during a sleep, the
/// controllers notice it after this time at the latest.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// An API server that listens on a socket, on its own thread. Dropping the `ApiServer` stops the server.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// A channel without messages. The server stops once this channel is closed.
    stop: Sender<()>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl ApiServer {
    /// Starts a thread that serves clients on the listening socket `listener`.
    ///
    /// # Errors
    /// An error if the socket cannot listen, or the operating system cannot start a thread.
    pub fn start(listener: TcpListener, api: Api, tls: Tls) -> io::Result<Self> {
        let address = listener.local_addr()?;
        // A second `listen` replaces the backlog, which is lower after `TcpListener::bind`.
        rustix::net::listen(&listener, BACKLOG)?;
        let shared = Arc::new(Shared { api: Mutex::new(api), tls: Mutex::new(tls), changed: Event::new() });
        let (stop, stopped) = channel::bounded(1);
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("perennial-apiserver".into())
            .spawn(move || smol::block_on(serve(listener, &serving, &stopped)))?;
        Ok(Self { shared, address, stop, thread: Some(thread) })
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls `f` with the API and the time. Watches send the changes that `f` makes. The server serves no client until
    /// `f` returns.
    pub fn with_api<R>(&self, f: impl FnOnce(&mut Api, UnixTime) -> R) -> R {
        self.shared.with_api(f)
    }

    /// Uses `tls` for clients that connect from now on, for example after [`Api::rotate_authority`].
    pub fn set_tls(&self, tls: Tls) {
        *self.shared.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    /// Waits until the API's [version](Api::version) differs from `seen`.
    pub async fn changed(&self, seen: u64) {
        loop {
            // Listen before checking: a change in between is not missed.
            let changed = self.shared.changed.listen();
            if self.shared.lock().version() != seen {
                return;
            }
            changed.await;
        }
    }

    /// Closes all connections and waits for the thread to end.
    ///
    /// # Errors
    /// The error that ended the server before this call.
    pub fn shutdown(mut self) -> io::Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> io::Result<()> {
        self.stop.close();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the API server's thread has panicked; please report this as a bug")),
            None => Ok(()),
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // A drop cannot report an error.
        let _ = self.stop();
    }
}

/// State that the tasks of all clients share.
#[derive(Debug)]
struct Shared {
    api: Mutex<Api>,
    /// TLS configuration for new sessions.
    tls: Mutex<Tls>,
    /// Notified when the API's version has risen.
    changed: Event,
}

impl Shared {
    fn with_api<R>(&self, f: impl FnOnce(&mut Api, UnixTime) -> R) -> R {
        let mut api = self.lock();
        let before = api.version();
        let result = f(&mut api, clock::now().unix);
        let changed = api.version() != before;
        // Released before waking: each woken client locks the API.
        drop(api);
        if changed {
            self.changed.notify(usize::MAX);
        }
        result
    }

    /// Locks the API, even if a closure of `with_api` has panicked before. That is safe: each change of the API is
    /// complete or not begun.
    fn lock(&self) -> MutexGuard<'_, Api> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves clients until `stopped` is closed.
async fn serve(listener: TcpListener, shared: &Arc<Shared>, stopped: &Receiver<()>) -> io::Result<()> {
    let listener = Async::new(listener)?;
    let executor = Rc::new(LocalExecutor::new());
    let work = or(accept(&listener, shared, &executor), run_controllers(shared));
    let stop = async {
        let _ = stopped.recv().await;
    };
    // Not `LocalExecutor::run`, which polls the reactor only after hundreds of steps while some task is ready.
    let tasks = async {
        loop {
            for _ in 0..STEPS_PER_POLL {
                executor.tick().await;
            }
            yield_now().await;
        }
    };
    or(or(work, stop), tasks).await;
    Ok(())
}

async fn accept<'a>(listener: &Async<TcpListener>, shared: &'a Arc<Shared>, executor: &Rc<LocalExecutor<'a>>) {
    let most_clients = shared.lock().options.clients;
    let clients = Rc::new(Clients::default());
    let mut full = false;
    let buffer = Rc::new(RefCell::new(vec![0; READ_SIZE]));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The limit of descriptors may be reached: closing a connection frees one.
                if !clients.close_oldest_unauthenticated() {
                    tracing::warn!(%error, "cannot accept a client; will try again in 100 ms");
                    Timer::after(Duration::from_millis(100)).await;
                }
                yield_now().await;
                continue;
            }
        };
        let count = clients.count();
        let turned_away = count >= most_clients && !clients.close_oldest_unauthenticated();
        // Logged once, not for each rejected client.
        if turned_away && !full {
            tracing::warn!("too many clients: {count} are connected, closing further connections");
        }
        full = turned_away;
        if turned_away && count >= most_clients.saturating_add(MOST_TURNED_AWAY) {
            continue;
        }
        let (registration, buffer) = (clients.register(), Rc::clone(&buffer));
        let number = registration.number();
        let task = executor.spawn(async move {
            // Errors of one connection do not concern the server.
            let _ = client::serve(&stream, turned_away, shared, &buffer, &registration).await;
        });
        match turned_away {
            true => task.detach(),
            false => clients.allow_closing(number, task),
        }
        // Let dropped tasks close their connections before accepting more.
        yield_now().await;
    }
}

/// Runs the controllers of the API whenever they are due.
async fn run_controllers(shared: &Shared) {
    loop {
        let changed = shared.changed.listen();
        let (due, now) = shared.with_api(|api, now| {
            api.tick(now);
            (api.deadline(), now)
        });
        let timer = Timer::after(due.since(now).min(LONGEST_SLEEP));
        or(changed, async {
            timer.await;
        })
        .await;
    }
}
