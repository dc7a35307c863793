//! The builder of a rotation.

use std::fmt;
use std::io;
use std::sync::Arc;

use perennial::{Policy, Template};
use perennial_pki::Credential;

use crate::clock;
use crate::handle::{Handle, Left};
use crate::link::{Link, Message};
use crate::task::Task;
use crate::{
    Input, LoadRequest, Memory, Observer, Record, Rotation, Signer, Start, Store, StoreError, Stored, Transition,
};

/// What is to be rotated, and how. Everything is optional: without a signer or a template, what the
/// store holds is served as it is; without a store, a credential lives as long as the process.
#[derive(Default)]
pub struct Rotator {
    name: String,
    policy: Policy,
    template: Option<Template>,
    common_name: Option<String>,
    signer: Option<Arc<dyn Signer>>,
    left: Option<Left>,
    store: Option<Arc<dyn Store>>,
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
    pub fn signer(self, signer: impl Signer + 'static) -> Self {
        Self { signer: Some(Arc::new(signer)), ..self }
    }

    /// This looks on, from the first step: for logs, metrics, a journal. One more with each call.
    #[must_use]
    pub fn observer(mut self, observer: impl FnMut(&Transition) + Send + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Goes on from where an earlier rotation of this process ended: what it served is served, and written as soon as
    /// that can be done if the store does not hold it; of what somebody else has put there meanwhile, the better one is
    /// used. What it had asked for is gone on with. A store that cannot be read does not keep the rotation from starting.
    #[must_use]
    pub fn resume(self, left: Left) -> Self {
        Self { left: Some(left), ..self }
    }

    /// Where the credential, and the record of the last request, are kept: in memory unless this is called. Nothing is read
    /// before the start.
    #[must_use]
    pub fn store(self, store: impl Store + 'static) -> Self {
        Self { store: Some(Arc::new(store)), ..self }
    }

    /// Reads the store and decides what to start from. The handle shows it before a runtime has run the task. This may
    /// block for seconds: a pair that cannot be read may be one that another program is writing.
    ///
    /// # Errors
    /// [`StartError::Store`].
    pub fn prepare(self) -> Result<(Handle, Task), StartError> {
        let store = self.store.clone().unwrap_or_else(|| Arc::new(Memory::default()));
        let now = clock::now();
        let common_name = self.template.as_ref().map(Template::common_name).or(self.common_name.as_deref());
        let request = LoadRequest { common_name, has_signer: self.signer.is_some(), now: now.unix };
        let (stored, pending) = match store.load(&request) {
            Err(error) if self.left.is_none() => return Err(StartError::Store(error)),
            Err(error) => {
                tracing::warn!("{error}; continuing with the credential in memory");
                (Stored::default(), None)
            }
            Ok(stored) => (stored, recall(&*store)),
        };
        let rotate_now = stored.is_misplaced;
        let pending = self.left.as_ref().and_then(|left| left.record.clone()).or(pending);
        let Beginning { credential, waiting, unwritten, news } = self.beginning(stored);
        let Self { name, policy, template, common_name, signer, observers, .. } = self;
        let start = Start {
            policy: Arc::new(policy),
            signer,
            template: template.map(Arc::new),
            common_name,
            credential,
            waiting,
            unwritten,
            rotate_now,
            pending,
        };
        let now = clock::now();
        let mut rotation = Rotation::new(start, now);
        observers.into_iter().for_each(|observer| rotation.observe(observer));
        let link = Arc::new(Link::new(name, rotation.snapshot(now), rotation.shared_machine().clone()));
        if let Some(found) = news {
            link.send(Message::Input(Input::Replaced(Some(found))));
        }
        Ok((Handle::new(link.clone()), Task::new(rotation, store, link)))
    }

    /// Of what an earlier rotation served and what the store holds: what to begin with, and what is news to it.
    fn beginning(&self, stored: Stored) -> Beginning {
        let Stored { credential: found, waiting, .. } = stored;
        let left = self.left.as_ref().and_then(|left| Some((left.credential()?, &left.snapshot)));
        let Some((held, snapshot)) = left else {
            return Beginning { credential: found, waiting, unwritten: false, news: None };
        };
        let waiting = snapshot.waiting.clone().or(waiting);
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
}

/// What a rotation begins with.
struct Beginning {
    credential: Option<Arc<Credential>>,
    waiting: Option<Arc<Credential>>,
    unwritten: bool,
    /// What somebody else has put into the store.
    news: Option<Arc<Credential>>,
}

/// The record of an earlier run. One that cannot be read stays where it is until the next one takes its place.
fn recall(store: &dyn Store) -> Option<Record> {
    let why = match store.recall() {
        Ok(None) => return None,
        Ok(Some(contents)) => match Record::decode(&contents) {
            Ok(record) => return Some(record),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!("ignoring the record of the last request: {why}; the next request is a new one, and replaces it");
    None
}

/// Why a rotation does not start. Nothing was requested.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The store cannot be read.
    Store(StoreError),
    /// The system has no thread to give.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Thread(error) => {
                write!(f, "cannot start a thread for a rotation: {error}; raise the limit of threads")
            }
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(&**error),
            Self::Thread(error) => Some(error),
        }
    }
}
