//! The user's end of a rotation.

use std::sync::Arc;
use std::time::Duration;

use perennial::{State, Template};
use perennial_kubernetes::rotation::{Input, Snapshot};
use perennial_pki::Credential;

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

    /// Ends the rotation, and waits until it has: no file is written after that. A request that is out
    /// is dropped; the API server keeps the object. Credentials handed out stay as they are.
    pub fn shutdown(&self) {
        self.link.send(Message::Stop);
        self.link.wait_within(None, |_| None::<()>);
    }
}
