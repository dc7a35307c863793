//! The control socket of `perennial run`, and the command `perennial rotate`, which requests rotations through it.
//!
//! The socket is a Unix socket with mode 0600. It accepts connections of the user who runs perennial and of root only,
//! and carries no secrets: a line of JSON with the names of certificates, and a line with the answer.

use std::cell::LazyCell;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use perennial::State;
use perennial_rotation::Handle;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use crate::cli;
use crate::failure::Failure;
use crate::files;
use crate::report::print;
use crate::threads;

/// Longest time for one connection to send its whole request, and for the main loop to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request, in bytes.
const LONGEST: u64 = 1 << 20;
/// Pause after a connection could not be accepted, for example because no descriptor is left.
const PAUSE: Duration = Duration::from_secs(1);

/// A line from `perennial rotate`.
#[derive(Deserialize, Serialize)]
struct Request {
    /// The names of the certificates to rotate; empty for all.
    rotate: Vec<String>,
}

/// A line to `perennial rotate`: the certificates that will be rotated, or the error.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Rotating(Vec<String>),
    Error(String),
}

/// A request that waits for the main loop.
struct Pending {
    request: Request,
    reply: SyncSender<Answer>,
    /// True once the main loop has begun with the request, or the connection has given it up.
    taken: Arc<AtomicBool>,
}

/// The listening socket. Dropping this removes its file.
pub(crate) struct Control {
    path: PathBuf,
    /// Device and number of the socket's file; `None` if they could not be read.
    file: Option<(u64, u64)>,
    requests: Receiver<Pending>,
}

impl Control {
    /// Listens at this path, on a thread of its own. Replaces the socket of a process that has ended. `wake` wakes the
    /// main loop, which then has to call [`serve`](Self::serve).
    ///
    /// # Errors
    /// [`Failure::Usage`] if the path cannot be used or another process listens there, [`Failure::Failed`] if the
    /// system refuses a thread.
    pub(crate) fn start(path: &Path, wake: impl Fn() + Send + 'static) -> Result<Self, Failure> {
        let listener = bind(path).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::AddrInUse => "another process listens there, or the file is no socket".to_owned(),
                _ => error.to_string(),
            };
            Failure::Usage(format!("--control {}: {why}", path.display()))
        })?;
        let (sender, requests) = mpsc::sync_channel(16);
        let control = Self { path: path.to_owned(), file: identity(path), requests };
        let listen = move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => answer(&stream, &sender, &wake, PATIENCE),
                    Err(error) => {
                        tracing::debug!("cannot accept a connection of `perennial rotate`: {error}");
                        thread::sleep(PAUSE);
                    }
                }
            }
        };
        threads::start("control", "the control socket", listen)?;
        Ok(control)
    }

    /// Answers all requests that have arrived. `certificates` are the names of all certificates, each with its rotation,
    /// or `None` while the certificate could not start.
    pub(crate) fn serve<'a>(&self, certificates: impl Iterator<Item = (&'a str, Option<&'a Handle>)>) {
        // The main loop calls this at each wake, and mostly there is no request.
        let certificates = LazyCell::new(|| certificates.collect::<Vec<_>>());
        while let Some(Pending { request, reply, .. }) = self.next() {
            let chosen = choose(&request.rotate, &certificates);
            let chosen = chosen.inspect(|chosen| chosen.iter().for_each(|(_, handle)| handle.rotate_now()));
            let answer = chosen.map(|chosen| chosen.iter().map(|(name, _)| (*name).to_owned()).collect());
            // The connection is gone if the caller waits no more.
            let _ = reply.try_send(answer.map_or_else(Answer::Error, Answer::Rotating));
        }
    }

    /// Takes the next request that its connection has not given up.
    fn next(&self) -> Option<Pending> {
        self.requests.try_iter().find(|pending| !pending.taken.swap(true, Ordering::SeqCst))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The file stays if another program has replaced the directory: the next start replaces it. The socket of another
        // process stays as well.
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Finds the rotations with these names; all rotations if there are no names.
///
/// # Errors
/// A sentence: there is no such certificate, or it is not rotated. No certificate is rotated then.
fn choose<'a>(
    names: &[String],
    certificates: &[(&'a str, Option<&'a Handle>)],
) -> Result<Vec<(&'a str, &'a Handle)>, String> {
    let is_rotated = |handle: &Handle| handle.state() != State::NotEnabled;
    if names.is_empty() {
        let running =
            certificates.iter().filter_map(|(name, handle)| Some((*name, handle.filter(|it| is_rotated(it))?)));
        return Ok(running.collect());
    }
    let find = |wanted: &String| match certificates.iter().find(|(name, _)| name == wanted) {
        Some((name, Some(handle))) if is_rotated(handle) => Ok((*name, *handle)),
        Some((name, Some(_))) => Err(format!("{name}: rotation is not enabled")),
        Some((name, None)) => Err(format!("{name}: the certificate could not start; the log has the reason")),
        None => {
            let known: Vec<_> = certificates.iter().map(|(name, _)| *name).collect();
            Err(format!("there is no certificate {wanted}; there are: {}", known.join(", ")))
        }
    };
    names.iter().map(find).collect()
}

/// Device and number of the file at this path, which may be a link; `None` if there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Binds the socket. Replaces a socket on which no process listens any more.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // Of two processes that start at once, the second must not take the first one's new socket for a stale one.
    let _locked = lock_directory(files::parent(path));
    let is_stale = || {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    match listen(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_stale() => {
            fs::remove_file(path)?;
            listen(path)
        }
        bound => bound,
    }
}

/// Locks a directory against other processes that bind a socket in it, until the file is dropped. `None` if the
/// directory cannot be locked, or if a process holds the lock for longer than [`PATIENCE`].
fn lock_directory(directory: &Path) -> Option<File> {
    let directory = File::open(directory).ok()?;
    let end = Instant::now() + PATIENCE;
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            Err(_) => return None,
        }
    }
}

/// Creates a socket with mode 0600 at this path, and listens there.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn listen(path: &Path) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The file gets the mode of its socket. A later change through the path could change another file.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 128)?;
    Ok(socket.into())
}

/// Creates a socket with mode 0600 at this path, and listens there.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    // Until here, the umask decides who connects. A link that has replaced the socket is not followed.
    rustix::fs::chmodat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(listener)
}

/// Reads a line of at most [`LONGEST`] bytes, for at most `most`, however slowly the other end writes.
fn read_line(mut stream: &UnixStream, most: Duration) -> io::Result<Vec<u8>> {
    let (end, mut line, mut part) = (Instant::now() + most, Vec::new(), [0; 4096]);
    while !line.contains(&b'\n') {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || line.len() as u64 > LONGEST {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => break,
            count => line.extend_from_slice(&part[..count]),
        }
    }
    Ok(line)
}

/// Reads the request of a connection, passes it to the main loop, and writes the answer. Waits for at most `most` for
/// the request, and for the answer of the main loop. A request without an answer by then is not carried out.
fn answer(stream: &UnixStream, sender: &SyncSender<Pending>, wake: &impl Fn(), most: Duration) {
    if stream.set_write_timeout(Some(PATIENCE)).is_err() || !is_allowed(stream) {
        return;
    }
    let read = read_line(stream, most).map_err(serde_json::Error::io);
    let Ok(request) = read.and_then(|line| serde_json::from_slice(&line)) else { return };
    let (reply, answers) = mpsc::sync_channel(1);
    let taken = Arc::<AtomicBool>::default();
    let answer = match sender.try_send(Pending { request, reply, taken: taken.clone() }) {
        Ok(()) => {
            wake();
            // A request that the main loop has taken is answered at once.
            let late = || if taken.swap(true, Ordering::SeqCst) { answers.recv_timeout(PATIENCE).ok() } else { None };
            answers.recv_timeout(most).ok().or_else(late).ok_or("perennial is busy; try again")
        }
        Err(_) => Err("too many requests at once; try again"),
    };
    let answer = answer.unwrap_or_else(|why| Answer::Error(why.into()));
    let line = serde_json::to_string(&answer).unwrap_or_default() + "\n";
    // A caller that has gone needs no answer.
    let _ = { stream }.write_all(line.as_bytes());
}

/// True if the other end is root or the user who runs perennial.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_allowed(stream: &UnixStream) -> bool {
    let peer = rustix::net::sockopt::socket_peercred(stream);
    peer.is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// True: the mode of the socket decides who connects.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_allowed(_: &UnixStream) -> bool {
    true
}

/// Runs `perennial rotate`. Prints the names of the certificates that `perennial run` rotates now.
///
/// # Errors
/// [`Failure::Failed`] if no process listens at the socket or does not answer. [`Failure::Usage`] with the answer if
/// there is no such certificate.
pub(crate) fn rotate(options: &cli::Rotate) -> Result<(), Failure> {
    let path = options.control.display();
    let answer = ask(&options.control, &options.names).map_err(|error| {
        Failure::Failed(format!(
            "{path}: {error}; is `perennial run --control {path}` running, and are you root or its user?"
        ))
    })?;
    match answer {
        Answer::Rotating(names) if names.is_empty() => Err(Failure::Failed("no certificate is rotated".into())),
        Answer::Rotating(names) => {
            names.iter().for_each(|name| print(&format!("{name}: requesting a new certificate\n")));
            Ok(())
        }
        Answer::Error(why) => Err(Failure::Usage(why)),
    }
}

fn ask(path: &Path, names: &[String]) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    let request = serde_json::to_string(&Request { rotate: names.to_vec() })?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed without an answer"));
    }
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use std::iter;
    use std::os::unix::fs::PermissionsExt as _;

    use perennial::Template;
    use perennial_rotation::{Rotator, SignWith};
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn names_choose_rotations_and_unknown_name_is_refused() {
        let signer = SignWith::future("example.com/mesh", |_| std::future::pending());
        let (rotated, _task) = Rotator::new().template(Template::new("a")).signer(signer).prepare().unwrap();
        let (observed, _task) = Rotator::new().prepare().unwrap();
        let certificates = [("a", Some(&rotated)), ("b", Some(&observed)), ("c", None)];
        let chosen = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(&names, &certificates).map(|chosen| chosen.iter().map(|(name, _)| *name).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]), Ok(vec!["a"]));
        assert_eq!(chosen(&["a"]), Ok(vec!["a"]));
        assert!(chosen(&["a", "b"]).is_err_and(|why| why.contains("not enabled")));
        assert!(chosen(&["c"]).is_err_and(|why| why.contains("could not start")));
        assert!(chosen(&["d"]).is_err_and(|why| why.contains("there are: a, b, c")));
    }

    #[test]
    fn socket_of_ended_process_is_replaced_and_other_files_stay() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let control = Control::start(&path, || ()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = Control::start(&path, || ()).err().unwrap().to_string();
        assert!(second.contains("another process listens there"), "{second}");
        drop(control);
        assert!(!path.exists());
        fs::write(&path, "text").unwrap();
        assert!(Control::start(&path, || ()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }

    #[test]
    fn socket_of_another_process_stays_at_the_end() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("control.sock");
        let control = Control::start(&path, || ()).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        let _other = Control::start(&path, || ()).unwrap();
        drop(control);
        assert!(path.exists());
    }

    #[test]
    fn slow_client_is_given_up_and_request_without_answer_is_not_carried_out() {
        let (sender, requests) = mpsc::sync_channel(16);
        let control = Control { path: PathBuf::new(), file: None, requests };
        let most = Duration::from_millis(50);
        let (ours, mut slow) = UnixStream::pair().unwrap();
        let writer = thread::spawn(move || {
            // Three seconds, if the other end reads on.
            (0..300).try_for_each(|_| {
                thread::sleep(Duration::from_millis(10));
                slow.write_all(b" ")
            })
        });
        answer(&ours, &sender, &|| (), most);
        drop(ours);
        assert!(writer.join().unwrap().is_err());
        let request = || {
            let (ours, mut client) = UnixStream::pair().unwrap();
            client.write_all(b"{\"rotate\":[]}\n").unwrap();
            (ours, client)
        };
        let answer_of = |mut client: UnixStream| {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            text
        };
        let (ours, client) = request();
        answer(&ours, &sender, &|| (), most);
        drop(ours);
        assert!(answer_of(client).contains("busy"));
        assert!(control.next().is_none());
        // A request that is taken in time is answered, and served once.
        let (ours, client) = request();
        answer(&ours, &sender, &|| control.serve(iter::empty()), PATIENCE);
        drop(ours);
        assert_eq!(answer_of(client), "{\"rotating\":[]}\n");
        assert!(control.next().is_none());
    }
}
