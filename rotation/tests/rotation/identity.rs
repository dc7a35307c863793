//! Identity sources of each kind: with an identity, without an identity, and after a change of the token, the file or
//! the certificate behind the source.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, SystemTime};

use perennial::Template;
use perennial_pki::{Credential, interim};
use perennial_rotation::{
    FileCredential, Handle, Identity, IdentitySource, NotYet, Rotator, Task, Token, TokenFile, clock,
};
use tempfile::TempDir;

/// A pair for this common name, issued `age` ago and valid for one day.
fn pair(common_name: &str, age: Duration) -> Arc<Credential> {
    Arc::new(interim(&Template::new(common_name), clock::now().unix.before(age)).unwrap())
}

fn token(text: &str) -> Token {
    Token::new(text).unwrap()
}

fn files(path: &Path) -> FileCredential {
    FileCredential::open(path, path).unwrap().every(Duration::ZERO)
}

/// The handle and the task of a rotation without a signer. [`serve`] sets its credential.
fn served() -> (Handle, Mutex<Option<Task>>) {
    let (handle, task) = Rotator::new().prepare().unwrap();
    (handle, Mutex::new(Some(task)))
}

fn serve(handle: &Handle, task: &Mutex<Option<Task>>, credential: Arc<Credential>) {
    handle.report_replaced(Some(credential));
    assert!(task.lock().unwrap().as_mut().unwrap().step(clock::now()).is_empty());
}

fn seen(source: &dyn IdentitySource) -> String {
    match source.identity() {
        Ok(Identity::Token(token)) => format!("token {}", token.reveal()),
        Ok(identity) => {
            identity.certificate().map_or_else(String::new, |held| held.chain().certificate().common_name().to_owned())
        }
        Err(why) if why.is_coming() => format!("coming: {why}"),
        Err(why) => format!("absent: {why}"),
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Name of the case, source, expected identity before the change, the change, expected identity after the change, and
/// true if the change wakes the waker that was registered at the source.
type Case<'a> = (&'a str, Box<dyn IdentitySource>, &'a str, &'a dyn Fn(), &'a str, bool);

#[test]
fn identity_source_is_read_on_each_call_and_handle_wakes_on_change() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let write_pair = |name: &str, credential: &Credential| {
        fs::write(at(name), credential.to_pem().as_bytes()).unwrap();
        // Files that were modified a moment ago may be incomplete, and are not used yet.
        let minute_ago = SystemTime::now() - Duration::from_secs(60);
        File::options().append(true).open(at(name)).unwrap().set_modified(minute_ago).unwrap();
    };
    let day = Duration::from_secs(86_400);
    fs::write(at("token"), "abcdef\n").unwrap();
    write_pair("pair", &pair("one", Duration::ZERO));
    write_pair("old", &pair("old", day * 400));
    let closure = || {
        let calls = AtomicUsize::new(0);
        move || match calls.fetch_add(1, Ordering::SeqCst) {
            0 => Err(NotYet::coming("in a minute")),
            _ => Ok(Identity::Token(token("first"))),
        }
    };
    let ((appears, appearing), (changes, changing), (ends, ending)) = (served(), served(), served());
    serve(&changes, &changing, pair("one", Duration::ZERO));

    let never = || {};
    #[rustfmt::skip]
    let cases: [Case<'_>; 13] = [
        ("token", Box::new(token("a")), "token a", &never, "token a", false),
        ("identity", Box::new(Identity::Token(token("a"))), "token a", &never, "token a", false),
        ("credential", Box::new(pair("one", Duration::ZERO)), "one", &never, "one", false),
        ("closure", Box::new(closure()), "coming: in a minute", &never, "token first", false),
        ("shared closure", Box::new(Arc::new(closure())), "coming: in a minute", &never, "token first", false),
        ("token file", Box::new(TokenFile::new(at("token"))), "token abcdef",
            &|| fs::write(at("token"), "ghijkl").unwrap(), "token ghijkl", false),
        ("token file that is damaged", Box::new(TokenFile::new(at("token"))), "token ghijkl",
            &|| fs::write(at("token"), "two words").unwrap(), "absent: /token: the bearer token is empty or", false),
        ("token file to come", Box::new(TokenFile::new(at("late"))), "absent: /late: cannot be read: No such file",
            &|| fs::write(at("late"), "late").unwrap(), "token late", false),
        ("files", Box::new(files(&at("pair"))), "one",
            &|| write_pair("pair", &pair("two", Duration::ZERO)), "two", false),
        ("shared files that have expired", Box::new(Arc::new(files(&at("old")))), "absent: /old: expired at ",
            &|| write_pair("old", &pair("new", Duration::ZERO)), "new", false),
        ("handle", Box::new(appears.clone()), "coming: waiting for the certificate that authenticates requests",
            &|| serve(&appears, &appearing, pair("one", Duration::ZERO)), "one", true),
        ("handle of another certificate", Box::new(changes.clone()), "one",
            &|| serve(&changes, &changing, pair("two", Duration::ZERO)), "two", true),
        ("handle that ends", Box::new(ends), "coming: ",
            &|| drop(ending.lock().unwrap().take()), "absent: the rotation of the certificate", true),
    ];
    for (name, source, before, change, after, wakes) in cases {
        let flag = Arc::new(Flag::default());
        // As a polling rotation, which registers its waker before each read.
        for _ in 0..2 {
            source.wake_on_change(&Waker::from(flag.clone()));
        }
        let shown = || seen(&*source).replace(&directory.path().display().to_string(), "");
        let first = shown();
        assert!(first.starts_with(before), "{name}: {first}");
        assert!(!flag.0.load(Ordering::SeqCst), "{name}");
        change();
        let second = shown();
        assert!(second.starts_with(after), "{name}: {second}");
        assert_eq!(flag.0.load(Ordering::SeqCst), wakes, "{name}");
        assert!(Arc::strong_count(&flag) == 1 || !wakes, "{name}: woken once");
    }
}

#[test]
fn identity_refused_by_server_makes_its_certificate_due() {
    let (handle, task) = served();
    let held = pair("one", Duration::ZERO);
    serve(&handle, &task, held.clone());
    // Of a certificate that is not in use any more this changes nothing.
    for (shown, due) in [(pair("other", Duration::ZERO), None), (held, Some(perennial::Reason::Refused))] {
        handle.identity_refused(&Identity::Certificate(shown));
        let _ = task.lock().unwrap().as_mut().unwrap().step(clock::now());
        assert_eq!(handle.snapshot().due.filter(|due| *due == perennial::Reason::Refused), due);
    }
}
