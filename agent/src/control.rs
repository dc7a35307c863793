//! The control socket of `perennial run`, and the command `perennial rotate`, which requests rotations through it.
//!
//! The socket is a Unix socket with mode 0600. It accepts connections of the user who runs perennial and of root only,
//! and carries no secrets: a line of JSON with the names of certificates, and a line with the answer.

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use perennial::State;
use perennial_rotation::Handle;
use serde::{Deserialize, Serialize};

use crate::cli;
use crate::failure::Failure;
use crate::report::print;
use crate::threads;

/// Longest time for one connection to send its request, and for the main loop to answer.
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

/// The listening socket. Dropping this removes its file.
pub(crate) struct Control {
    path: PathBuf,
    requests: Receiver<(Request, SyncSender<Answer>)>,
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
        let control = Self { path: path.to_owned(), requests };
        let listen = move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => answer(&stream, &sender, &wake),
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
    pub(crate) fn serve(&self, certificates: &[(&str, Option<&Handle>)]) {
        while let Ok((request, reply)) = self.requests.try_recv() {
            let chosen = choose(&request.rotate, certificates);
            let chosen = chosen.inspect(|chosen| chosen.iter().for_each(|(_, handle)| handle.rotate_now()));
            let answer = chosen.map(|chosen| chosen.iter().map(|(name, _)| (*name).to_owned()).collect());
            // The connection is gone if the caller waits no more.
            let _ = reply.try_send(answer.map_or_else(Answer::Error, Answer::Rotating));
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The file stays if another program has replaced the directory: the next start replaces it.
        let _ = fs::remove_file(&self.path);
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

/// Binds the socket. Replaces a socket on which no process listens any more.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let is_stale = || {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_stale() => {
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    // Between `bind` and here, `is_allowed` refuses other users.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Reads the request of a connection, passes it to the main loop, and writes the answer.
fn answer(stream: &UnixStream, sender: &SyncSender<(Request, SyncSender<Answer>)>, wake: &impl Fn()) {
    let limited = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    if limited.is_err() || !is_allowed(stream) {
        return;
    }
    let mut line = String::new();
    let read = BufReader::new(stream.take(LONGEST)).read_line(&mut line);
    let Ok(request) = read.map_err(serde_json::Error::io).and_then(|_| serde_json::from_str(&line)) else { return };
    let (reply, answers) = mpsc::sync_channel(1);
    let answer = match sender.try_send((request, reply)) {
        Ok(()) => {
            wake();
            answers.recv_timeout(PATIENCE).map_err(|_| "perennial is busy; try again")
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
}
