//! A socket loop for the embedded API server: one task for each client, all on one thread.

mod clients;

use std::cell::RefCell;
use std::future::pending;
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Api, Break, Session, Tls};
use async_io::{Async, Timer};
use event_listener::Event;
use perennial::{Instant, UnixTime};
use perennial_rotation::clock;
use rustix::net::sockopt;
use smol::LocalExecutor;
use smol::future::{or, yield_now};
use smol::io::AsyncWriteExt as _;

use clients::{Clients, Place};

/// Default limit of clients at a time.
const MOST_CLIENTS: usize = 2048;
/// Limit of rejected clients that get an answer, at a time; the connections of others are closed.
const MOST_TURNED_AWAY: usize = 64;
/// Send buffer of a connection, for a client that does not read; the system's default grows to megabytes.
const SEND_BUFFER: usize = 64 * 1024;
/// Connections that the operating system queues; a crowd beyond that would wait for seconds to be heard. Linux lowers
/// it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Idle time before TCP keepalive, and its interval, as in a cluster.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Size of a read; one buffer serves all clients.
const BUFFER: usize = 16 * 1024;
/// Steps of client tasks between two polls of the reactor.
const STEPS: usize = 32;
/// Time for a client to take its last bytes.
const LINGER: Duration = Duration::from_secs(2);
/// Longest sleep of the controllers: the wall clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// An API server with a listening socket, not serving yet.
#[derive(Debug)]
pub struct Host {
    listener: TcpListener,
    address: SocketAddr,
    most_clients: usize,
    shared: Arc<Shared>,
}

impl Host {
    /// Binds a socket. Port 0 takes a free port, which [`Host::address`] returns.
    ///
    /// # Errors
    /// The system refuses the address.
    pub fn bind(address: SocketAddr, api: Api, tls: Tls) -> io::Result<Self> {
        Self::new(TcpListener::bind(address)?, api, tls)
    }

    /// Takes a socket that listens already.
    ///
    /// # Errors
    /// The socket does not listen.
    pub fn new(listener: TcpListener, api: Api, tls: Tls) -> io::Result<Self> {
        let address = listener.local_addr()?;
        rustix::net::listen(&listener, BACKLOG)?;
        let shared = Shared {
            api: Mutex::new(api),
            tls: Mutex::new(tls),
            changed: Event::new(),
            stopped: AtomicBool::new(false),
            stop: Event::new(),
        };
        Ok(Self { listener, address, most_clients: MOST_CLIENTS, shared: Arc::new(shared) })
    }

    /// Limits the number of clients at a time, 2048 by default. At the limit, each new connection closes the oldest one
    /// over which no request has shown a credential yet. If there is none, new clients are answered with 429, or find
    /// their connections closed. Each client needs a file descriptor: mind the process' limit.
    #[must_use]
    pub fn most_clients(mut self, most: usize) -> Self {
        self.most_clients = most;
        self
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on a thread of its own until the handle stops it.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn spawn(self) -> io::Result<ServerHandle> {
        let (shared, address) = (Arc::clone(&self.shared), self.address);
        let thread = std::thread::Builder::new()
            .name("perennial-apiserver".into())
            .spawn(move || smol::block_on(self.serve()))?;
        Ok(ServerHandle { shared, address, thread: Some(thread) })
    }

    /// Serves clients until [`ServerHandle::shutdown`]. The future is for one thread and brings its own executor.
    ///
    /// # Errors
    /// The listening socket cannot be polled.
    pub async fn serve(self) -> io::Result<()> {
        let listener = Async::new(self.listener)?;
        let executor = Rc::new(LocalExecutor::new());
        let clients = accept(&listener, self.most_clients, &self.shared, &executor);
        let work = or(clients, control(&self.shared));
        // Not `run`, which looks for what has come only after hundreds of steps of those that need not wait.
        let tasks = async {
            loop {
                for _ in 0..STEPS {
                    executor.tick().await;
                }
                yield_now().await;
            }
        };
        or(or(work, self.shared.stopped()), tasks).await;
        Ok(())
    }
}

/// A running server. Dropping the handle stops it.
#[derive(Debug)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl ServerHandle {
    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls `f` with the API and the time; watches report its changes. The server waits meanwhile.
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
    /// The server had stopped before, with this error.
    pub fn shutdown(mut self) -> io::Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> io::Result<()> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.stop.notify(usize::MAX);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the API server's thread has panicked; please report this as a bug")),
            None => Ok(()),
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.stop();
    }
}

/// State that all clients share.
#[derive(Debug)]
struct Shared {
    api: Mutex<Api>,
    /// For sessions to come.
    tls: Mutex<Tls>,
    /// The API's version has risen.
    changed: Event,
    stopped: AtomicBool,
    stop: Event,
}

impl Shared {
    fn with_api<R>(&self, f: impl FnOnce(&mut Api, UnixTime) -> R) -> R {
        let mut api = self.lock();
        let before = api.version();
        let result = f(&mut api, clock::now().unix);
        let changed = api.version() != before;
        drop(api);
        if changed {
            self.changed.notify(usize::MAX);
        }
        result
    }

    fn tls(&self) -> Tls {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The API stays usable when a caller's closure has panicked: every change to it is complete or not begun.
    fn lock(&self) -> MutexGuard<'_, Api> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stopped(&self) {
        loop {
            let stop = self.stop.listen();
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            stop.await;
        }
    }
}

async fn accept<'a>(
    listener: &Async<TcpListener>,
    most_clients: usize,
    shared: &'a Arc<Shared>,
    executor: &Rc<LocalExecutor<'a>>,
) {
    let clients = Rc::new(Clients::default());
    let mut full = false;
    let buffer = Rc::new(RefCell::new(vec![0; BUFFER]));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Descriptors may have run out.
                if !clients.close_oldest_stranger() {
                    tracing::warn!(%error, "cannot accept a client; will try again in 100 ms");
                    Timer::after(Duration::from_millis(100)).await;
                }
                yield_now().await;
                continue;
            }
        };
        let count = clients.count();
        let turned_away = count >= most_clients && !clients.close_oldest_stranger();
        // Logged once: many may be knocking.
        if turned_away && !full {
            tracing::warn!("too many clients: {count} are connected, closing further connections");
        }
        full = turned_away;
        if turned_away && count >= most_clients.saturating_add(MOST_TURNED_AWAY) {
            continue;
        }
        let (place, buffer) = (clients.enter(), Rc::clone(&buffer));
        let number = place.number();
        let task = executor.spawn(async move {
            // A broken connection is the client's affair.
            let _ = serve_client(&stream, turned_away, shared, &buffer, &place).await;
        });
        match turned_away {
            true => task.detach(),
            false => clients.watch(number, task),
        }
        // Connections that were closed for new ones must go before more come.
        yield_now().await;
    }
}

/// Lets the API do what is due: approvals, signatures, cleaning.
async fn control(shared: &Shared) {
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

enum Woken {
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    Driven,
}

async fn serve_client(
    stream: &Async<TcpStream>,
    turned_away: bool,
    shared: &Shared,
    buffer: &RefCell<Vec<u8>>,
    place: &Place,
) -> io::Result<()> {
    stream.get_ref().set_nodelay(true)?;
    sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?;
    // A quiet watch says nothing for hours; who has vanished is found out like this.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    let mut session = Session::new(&shared.tls(), clock::now().instant).map_err(io::Error::other)?;
    if turned_away {
        session.turn_away();
    }
    let mut out = Vec::new();
    let mut closing: Option<Instant> = None;
    loop {
        let changed = shared.changed.listen();
        let now = clock::now();
        shared.with_api(|api, _| session.drive(api, now));
        if session.is_known() {
            place.keep();
        }
        if out.is_empty() {
            // An idle client is to cost little.
            out.shrink_to(0);
            session.transmit(&mut out, now.instant);
        }
        match session.breaks().filter(|_| out.is_empty()) {
            // Closing then resets the connection, whatever was read.
            Some(Break::Midway) => return Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?),
            Some(Break::Refused | Break::Reset) => return reset(stream).await,
            None => {}
        }
        let deadline = if session.is_closed() {
            let last = *closing.get_or_insert_with(|| now.instant.after(LINGER));
            if out.is_empty() || now.instant >= last {
                break;
            }
            last
        } else {
            session.deadline()
        };

        let mut writer = stream;
        let (reads, watches) = (session.wants_read(), session.is_watching());
        let into = |mut socket: &TcpStream| socket.read(&mut buffer.borrow_mut());
        let read = async { if reads { Woken::Read(stream.read_with(into).await) } else { pending().await } };
        let write = async { if out.is_empty() { pending().await } else { Woken::Wrote(writer.write(&out).await) } };
        let change = async {
            if watches {
                changed.await;
                Woken::Driven
            } else {
                pending().await
            }
        };
        let timer = async {
            Timer::after(deadline.since(now.instant)).await;
            Woken::Driven
        };
        match or(or(write, read), or(change, timer)).await {
            // Nobody else has read since: there has been no waiting.
            Woken::Read(read) => match read? {
                0 => session.receive_eof(),
                count => session.receive(&buffer.borrow()[..count]),
            },
            Woken::Wrote(written) => drop(out.drain(..written?)),
            Woken::Driven => {}
        }
        // A client that sends as fast as it is read never has to be waited for: the others get their turn.
        yield_now().await;
    }
    say_goodbye(stream, buffer).await
}

/// Leaves unread what the client sends: closing then resets the connection.
async fn reset(stream: &Async<TcpStream>) -> io::Result<()> {
    let timer = async {
        Timer::after(LINGER).await;
        Ok(())
    };
    or(stream.readable(), timer).await
}

/// Closes our side and reads on for a moment: closing with bytes unread would make the client lose our last ones.
async fn say_goodbye(stream: &Async<TcpStream>, buffer: &RefCell<Vec<u8>>) -> io::Result<()> {
    stream.get_ref().shutdown(Shutdown::Write)?;
    let drain = async {
        let into = |mut socket: &TcpStream| socket.read(&mut buffer.borrow_mut());
        while stream.read_with(into).await.is_ok_and(|count| count > 0) {
            yield_now().await;
        }
    };
    let timer = async {
        Timer::after(LINGER).await;
    };
    or(drain, timer).await;
    Ok(())
}
