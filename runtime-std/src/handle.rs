//! The user's end of a rotation.

use std::sync::Arc;
use std::time::Duration;

use perennial::{State, Template};
use perennial_kubernetes::rotation::{Input, Record, Snapshot};
use perennial_pki::Credential;
use perennial_rotation::ServerDate;

use crate::clock;
use crate::link::{Link, Message};

/// The user's end of a rotation. Cheap to clone. Dropping it changes nothing; [`shutdown`](Self::shutdown) ends the rotation.
#[derive(Clone, Debug)]
pub struct Handle {
    link: Arc<Link>,
}

impl Handle {
    /// A handle to the loop at the other end of this link.
    pub fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// The link itself, for other ways of waiting.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The credential to use now: a chain and the key it was issued for. `None` before the first one,
    /// and once the last one has expired. Costs a load and a look at the clock: ask for each connection.
    pub fn credential(&self) -> Option<Arc<Credential>> {
        let credential = self.link.snapshot().credential.clone()?;
        let expired = credential.chain().certificate().validity.expired(clock::now().unix);
        (!expired).then_some(credential)
    }

    /// What the rotation is doing.
    pub fn state(&self) -> State {
        self.link.snapshot().state
    }

    /// Everything there is to know, at one moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.link.snapshot()
    }

    /// Blocks until a snapshot satisfies `wanted`, and returns it. Only the latest is looked at: ask for
    /// what lasts. `None` if `timeout` passes, or the
    /// rotation ends, before that.
    pub fn wait_for(&self, timeout: Option<Duration>, wanted: impl Fn(&Snapshot) -> bool) -> Option<Arc<Snapshot>> {
        self.link.wait_within(timeout, |link| Some(link.snapshot()).filter(|snapshot| wanted(snapshot)))
    }

    /// Tells of every rotation from now on, old and new: to close what was opened with the old one, for example.
    pub fn rotations(&self) -> Rotations {
        Rotations { seen: self.link.snapshot().credential.clone(), link: self.link.clone() }
    }

    /// From now on another identity is wanted; `None`: none for now.
    pub fn set_template(&self, template: Option<Template>) {
        self.link.send(Message::Input(Input::TemplateChanged(template.map(Arc::new))));
    }

    /// Asks for a new certificate, whether or not one is due. The submission budget still holds.
    pub fn rotate_now(&self) {
        self.link.send(Message::Input(Input::RotateNow));
    }

    /// Tells that a server this credential is meant for did not accept it: HTTP 401, or a TLS alert. A new one is
    /// asked for at once, as whoever asked for the first. Of a credential that is not in use any more this changes nothing.
    pub fn refused(&self, credential: &Credential) {
        let fingerprint = credential.chain().certificate().fingerprint;
        self.link.send(Message::Input(Input::Refused { fingerprint }));
    }

    /// Reports what the clock of the API server that is asked for certificates showed in an answer to something else. Three
    /// answers that agree count: certificates are judged by either clock.
    pub fn server_dated(&self, date: ServerDate) {
        self.link.send(Message::Input(Input::ServerDated(date)));
    }

    /// Tells that somebody else has changed the store, which holds this now. What is better than the credential in use is
    /// used from now on; what is worse, and nothing, is overwritten with that one.
    pub fn replaced(&self, found: Option<Arc<Credential>>) {
        self.link.send(Message::Input(Input::Replaced(found)));
    }

    /// What the rotation left when it ended: see [`Rotator::resume`](crate::Rotator::resume).
    pub fn left(&self) -> Left {
        Left { snapshot: self.link.snapshot(), record: self.link.record() }
    }

    /// Ends the rotation, and waits until it has: no file is written after that. A request that is out
    /// is dropped; the API server keeps the object. Credentials handed out stay as they are.
    pub fn shutdown(&self) {
        self.link.send(Message::Stop);
        self.link.wait_within(None, |_| None::<()>);
    }
}

/// What a rotation that has ended leaves to one that goes on from there, in the same process.
#[derive(Clone, Debug)]
pub struct Left {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) record: Option<Record>,
}

impl Left {
    /// What was served.
    pub(crate) fn credential(&self) -> Option<&Arc<Credential>> {
        self.snapshot.credential.as_ref()
    }
}

/// Tells of rotations. Who looks late may find that there were several: then `old` is what was told last, and nothing
/// in between was ever told.
#[derive(Debug)]
pub struct Rotations {
    link: Arc<Link>,
    seen: Option<Arc<Credential>>,
}

/// The credential in use is another one.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The one before. It may still be valid: connections made with it go on.
    pub old: Option<Arc<Credential>>,
    /// The one for new connections.
    pub new: Arc<Credential>,
}

impl Rotations {
    /// The next one, if there was one already.
    pub fn look(&mut self) -> Option<Rotated> {
        let new = self.link.snapshot().credential.clone()?;
        let fingerprint = |credential: &Arc<Credential>| credential.chain().certificate().fingerprint;
        if self.seen.as_ref().map(fingerprint) == Some(fingerprint(&new)) {
            return None;
        }
        Some(Rotated { old: self.seen.replace(new.clone()), new })
    }

    /// Blocks until the next one. `None` if `timeout` passes, or the rotation ends, before that.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Option<Rotated> {
        let link = self.link.clone();
        link.wait_within(timeout, |_| self.look())
    }

    /// The link it looks at, for other ways of waiting.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }
}
