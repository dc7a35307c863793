//! The user's end of a rotation.

use std::sync::Arc;

use perennial::{State, Template};
use perennial_kubernetes::rotation::Snapshot;
use perennial_pki::Credential;
use perennial_rotation::ServerDate;
use perennial_std::link::{Link, Message};
use perennial_std::{Left, Rotated};

/// The user's end of a rotation. Cheap to clone. Dropping it changes nothing; [`shutdown`](Self::shutdown) ends the rotation.
#[derive(Clone, Debug)]
pub struct Handle(perennial_std::Handle);

impl Handle {
    pub(crate) fn new(handle: perennial_std::Handle) -> Self {
        Self(handle)
    }

    /// The same handle for threads, which may block.
    pub fn blocking(&self) -> &perennial_std::Handle {
        &self.0
    }

    /// The credential to use now: a chain and the key it was issued for. `None` before the first one,
    /// and once the last one has expired. Costs a load and a look at the clock: ask for each connection.
    pub fn credential(&self) -> Option<Arc<Credential>> {
        self.0.credential()
    }

    /// What the rotation is doing.
    pub fn state(&self) -> State {
        self.0.state()
    }

    /// Everything there is to know, at one moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot()
    }

    /// Waits until a snapshot satisfies `wanted`. Only the latest is looked at: ask for what lasts. `None` if the rotation ends before that.
    pub async fn wait_for(&self, wanted: impl Fn(&Snapshot) -> bool) -> Option<Arc<Snapshot>> {
        self.watch(|link| Some(link.snapshot()).filter(|snapshot| wanted(snapshot))).await
    }

    /// Tells of every rotation from now on, old and new: to close what was opened with the old one, for example.
    pub fn rotations(&self) -> Rotations {
        Rotations(self.0.rotations())
    }

    /// From now on another identity is wanted; `None`: none for now.
    pub fn set_template(&self, template: Option<Template>) {
        self.0.set_template(template);
    }

    /// Asks for a new certificate, whether or not one is due. The submission budget still holds.
    pub fn rotate_now(&self) {
        self.0.rotate_now();
    }

    /// Tells that a server this credential is meant for did not accept it: HTTP 401, or a TLS alert. A new one is
    /// asked for at once, as whoever asked for the first. Of a credential that is not in use any more this changes nothing.
    pub fn refused(&self, credential: &Credential) {
        self.0.refused(credential);
    }

    /// Reports what the clock of the API server that is asked for certificates showed in an answer to something else. Three
    /// answers that agree count: certificates are judged by either clock.
    pub fn server_dated(&self, date: ServerDate) {
        self.0.server_dated(date);
    }

    /// Tells that somebody else has changed the store, which holds this now. What is better than the credential in use is
    /// used from now on; what is worse, and nothing, is overwritten with that one.
    pub fn replaced(&self, found: Option<Arc<Credential>>) {
        self.0.replaced(found);
    }

    /// What the rotation left when it ended: see [`Rotator::resume`](crate::Rotator::resume).
    pub fn left(&self) -> Left {
        self.0.left()
    }

    /// Ends the rotation, and waits until it has: no file is written after that. A request that is out
    /// is dropped; the API server keeps the object. Credentials handed out stay as they are.
    pub async fn shutdown(&self) {
        self.0.link().send(Message::Stop);
        self.watch(|_| None::<()>).await;
    }

    async fn watch<T>(&self, mut look: impl FnMut(&Link) -> Option<T>) -> Option<T> {
        loop {
            match self.0.link().watch(&mut look) {
                Ok(seen) => return seen,
                Err(change) => change.await,
            }
        }
    }
}

/// Tells of rotations. Who looks late may find that there were several: then `old` is what was told last, and nothing
/// in between was ever told.
#[derive(Debug)]
pub struct Rotations(perennial_std::Rotations);

impl Rotations {
    /// Waits for the next one; `None` if the rotation ends before that.
    pub async fn next(&mut self) -> Option<Rotated> {
        let link = self.0.link().clone();
        loop {
            match link.watch(|_| self.0.look()) {
                Ok(seen) => return seen,
                Err(change) => change.await,
            }
        }
    }
}
