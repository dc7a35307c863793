//! One thread for each rotated certificate.

use std::fmt;
use std::sync::Arc;
use std::thread;

use perennial::{Policy, RequestId, Template};
use perennial_kubernetes::client::Issuance;
use perennial_kubernetes::rotation::{Duty, Input, Observer, Record, Rotation, Signer, Snapshot, Start, Step};
use perennial_pki::Credential;

use crate::clock;
use crate::disk_worker::DiskWorker;
use crate::drive::{Cancel, drive};
use crate::handle::{Handle, Left};
use crate::link::{Ending, Link, Message};
use perennial_rotation::{Directory, DirectoryError};

/// What is to be rotated, and how. Everything is optional: without a signer or a template, what the
/// store holds is served as it is; without a store, a credential lives as long as the process.
#[derive(Default)]
pub struct Rotator {
    name: String,
    policy: Policy,
    template: Option<Template>,
    common_name: Option<String>,
    signer: Option<Signer>,
    left: Option<Left>,
    store: Option<Arc<Directory>>,
    /// What the store holds.
    found: Option<Arc<Credential>>,
    /// The successor, not valid yet.
    waiting: Option<Arc<Credential>>,
    /// Programs that read `PREFIX-current.pem` do not find that pair.
    is_misplaced: bool,
    pending: Option<Record>,
    observers: Vec<Observer>,
}

/// What is there and what is not.
impl fmt::Debug for Rotator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotator")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .field("template", &self.template)
            .field("common_name", &self.common_name)
            .field("signer", &self.signer)
            .field("left", &self.left)
            .field("store", &self.store)
            .field("found", &self.found)
            .field("waiting", &self.waiting)
            .field("is_misplaced", &self.is_misplaced)
            .field("pending", &self.pending)
            .field("observers", &self.observers.len())
            .finish()
    }
}

impl Rotator {
    /// Nothing yet, with the default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it is called in logs, in a process that rotates more than one.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// The numbers to go by.
    #[must_use]
    pub fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// The identity wanted. It can be given, or changed, later.
    #[must_use]
    pub fn template(self, template: Template) -> Self {
        Self { template: Some(template), ..self }
    }

    /// For whom, if the template comes later: rotation points are drawn from it, and a restart must draw the same.
    #[must_use]
    pub fn common_name(self, name: impl Into<String>) -> Self {
        Self { common_name: Some(name.into()), ..self }
    }

    /// Who to ask.
    #[must_use]
    pub fn signer(self, signer: Signer) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// This looks on, from the first step: for logs, metrics, a journal. One more with each call.
    #[must_use]
    pub fn observer(mut self, observer: impl FnMut(&Step<'_>) + Send + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Goes on from where an earlier rotation of this process ended: what it served is served, and written as soon as
    /// that can be done if the store does not hold it; of what somebody else has put there meanwhile, the better one is
    /// used. What it had asked for is gone on with. Told before the [`store`](Self::store), the store's faults are logged,
    /// and do not end what has begun.
    #[must_use]
    pub fn resume(self, left: Left) -> Self {
        Self { left: Some(left), ..self }
    }

    /// Keeps the credential, and the record of the last request, in this directory. The rotation starts from the best pair
    /// of the directory and logs its problems. If the template or common name was given before, pairs with another common
    /// name are not used.
    ///
    /// Nothing in it is changed unless the [`signer`](Self::signer) was given before. With a signer,
    /// `PREFIX-current.pem` is linked to the pair if it resolves to nothing, and leftovers of writes that were killed are
    /// removed. A pair that cannot be read is waited for, for some seconds: another program may be writing it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn store(self, store: impl Into<Arc<Directory>>) -> Result<Self, DirectoryError> {
        let store = store.into();
        let name = self.template.as_ref().map(Template::common_name).or(self.common_name.as_deref());
        let now = clock::now().unix;
        let loaded = match self.signer {
            Some(_) => store.load_settled(name, now).and_then(|_| store.recover_of(name, now)),
            None => store.load_of(name, now),
        };
        let (found, waiting, is_misplaced, pending) = match loaded {
            Ok(found) => {
                found.problems.iter().for_each(DirectoryError::log);
                let is_misplaced = !found.in_use && self.signer.is_some();
                // The rotation does not serve another party's pair, and reports it for as long as it lies there.
                let credential = found.credential.map(|(credential, _)| credential).or(found.foreign);
                (credential, found.waiting, is_misplaced, recall(&store))
            }
            Err(error) if self.left.is_some() => {
                tracing::warn!("{error}; continuing with the credential in memory");
                (None, None, false, None)
            }
            Err(error) => return Err(error),
        };
        Ok(Self { found, waiting, is_misplaced, pending, store: Some(store), ..self })
    }

    /// What the rotation starts with.
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.left.as_ref().and_then(Left::credential).or(self.found.as_ref())
    }

    /// The parts a loop needs: decisions, disk, and the link to its handles.
    pub fn into_parts(self) -> (Rotation, Option<Arc<Directory>>, Arc<Link>) {
        let Beginning { credential, waiting, unwritten, news } = self.beginning();
        let Self { name, policy, template, common_name, signer, left, store, is_misplaced, pending, observers, .. } =
            self;
        let start = Start {
            policy: Arc::new(policy),
            signer,
            template: template.map(Arc::new),
            common_name,
            credential,
            waiting,
            unwritten,
            rotate_now: is_misplaced,
            pending: left.and_then(|left| left.record).or(pending),
        };
        let now = clock::now();
        let mut rotation = Rotation::new(start, now);
        observers.into_iter().for_each(|observer| rotation.observe(observer));
        let link = Arc::new(Link::new(name, rotation.snapshot(now)));
        if let Some(found) = news {
            link.send(Message::Input(Input::Replaced(Some(found))));
        }
        (rotation, store, link)
    }

    /// Of what an earlier rotation served and what the store holds: what to begin with, and what is news to it.
    fn beginning(&self) -> Beginning {
        let found = self.found.clone();
        let left = self.left.as_ref().and_then(|left| Some((left.credential()?, &left.snapshot)));
        let Some((held, snapshot)) = left else {
            return Beginning { credential: found, waiting: self.waiting.clone(), unwritten: false, news: None };
        };
        let waiting = snapshot.waiting.clone().or_else(|| self.waiting.clone());
        if let Some(found) = found.as_ref().filter(|found| held.chain() == found.chain()) {
            // What is written once more is what waits, and was not written yet.
            let unwritten = snapshot.unwritten && waiting.is_some();
            return Beginning { credential: Some(found.clone()), waiting, unwritten, news: None };
        }
        let expired = held.chain().certificate().validity.expired(clock::now().unix);
        let unwritten = snapshot.unwritten || found.is_none() && !expired && self.signer.is_some();
        let end = |credential: &Credential| credential.chain().certificate().validity.not_after();
        // What was issued last comes before what it was to replace, however good that is.
        let news = found.filter(|found| !unwritten || end(found) > end(held));
        Beginning { credential: Some(held.clone()), waiting, unwritten, news }
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(self) -> std::io::Result<Handle> {
        let (rotation, store, link) = self.into_parts();
        let handle = Handle::new(link.clone());
        thread::Builder::new().name("perennial".into()).spawn(move || {
            run(rotation, store, Ending::new(link));
        })?;
        Ok(handle)
    }
}

/// What a rotation begins with.
struct Beginning {
    credential: Option<Arc<Credential>>,
    waiting: Option<Arc<Credential>>,
    unwritten: bool,
    /// What somebody else has put into the store.
    news: Option<Arc<Credential>>,
}

fn run(mut rotation: Rotation, store: Option<Arc<Directory>>, ending: Ending) {
    let link = ending.link().clone();
    let mut disk = DiskWorker::new(store, ending);
    let mut exchange: Option<(RequestId, CancelOnDrop)> = None;
    loop {
        let deadline = rotation.deadline().into_iter().chain(disk.deadline()).min();
        let input = match link.receive_within(deadline.map(clock::until)) {
            Some(Message::Input(input)) => input,
            Some(Message::Stop) => break,
            None => Input::Tick,
        };
        disk.note(&input);
        let duties = rotation.handle(input, clock::now());
        // What is accepted is served at once, and written after that.
        link.publish(rotation.snapshot(clock::now()));
        for duty in duties {
            match duty {
                Duty::Drop { id } => {
                    disk.drop_held(id);
                    exchange.take_if(|(live, _)| *live == id);
                }
                Duty::Write { id, credential, serve } => disk.write(id, credential, serve),
                Duty::Save { record } => disk.save(record),
                Duty::Drive { id, exchange } => disk.hold(id, exchange),
                // The loop reads the deadline instead.
                Duty::SetTimer(_) => {}
            }
        }
        if let Some((id, conversation)) = disk.ready() {
            exchange = converse(&link, id, *conversation).map(|cancel| (id, cancel));
        }
    }
    drop(exchange);
    let mut message = None;
    while !disk.finish(&mut rotation, message) {
        message = link.receive_within(None);
    }
    link.leave(rotation.record(clock::now()));
    let last = rotation.snapshot(clock::now());
    link.publish(Snapshot { unwritten: last.unwritten && !disk.wrote_at_the_end(), ..last });
}

/// Drives an exchange on a thread of its own until the returned guard is dropped.
fn converse(link: &Arc<Link>, id: RequestId, conversation: Issuance) -> Option<CancelOnDrop> {
    let cancel = Arc::new(Cancel::default());
    let (reporter, cancelled, to) = (link.reporter(id), cancel.clone(), link.clone());
    let spawned = thread::Builder::new().name("perennial-exchange".into()).spawn(move || {
        if let Some(result) = drive(conversation, &cancelled, reporter) {
            to.send(Message::Input(Input::Finished { id, result }));
        }
    });
    match spawned {
        Ok(_) => Some(CancelOnDrop(cancel)),
        Err(error) => {
            let why = format!("cannot start a thread for the request: {error}; raise the limit of threads");
            link.send(Message::Input(Input::Unable { id, why }));
            None
        }
    }
}

struct CancelOnDrop(Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The record of an earlier run. One that cannot be read stays where it is until the next one takes its place.
fn recall(store: &Directory) -> Option<Record> {
    let why = match store.recall().map(|contents| contents.map(|contents| Record::decode(&contents))) {
        Ok(None) => return None,
        // Logged with the other problems of the directory.
        Err(DirectoryError::Untrusted { .. }) => return None,
        Ok(Some(Ok(record))) => return Some(record),
        Ok(Some(Err(error))) => format!("{}: {error}", store.record().display()),
        Err(error) => error.to_string(),
    };
    tracing::warn!("ignoring the record of the last request: {why}; the next request is a new one, and replaces it");
    None
}
