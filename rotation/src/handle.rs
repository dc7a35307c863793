//! [`Handle`]: a program's access to a running rotation.

pub(crate) mod link;
mod notices;
pub(crate) mod rotations;
mod wait;

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use perennial::{Policy, State, Template, TemplateError};
use perennial_pki::Credential;

use crate::{Identity, IdentitySource, Input, NotYet, ServerDate, Signer, Snapshot, clock};
use link::{Link, Message};
pub use notices::{MemberNotice, Notices};
pub(crate) use notices::{Queue, Queues};
pub use rotations::{Rotated, Rotations};
pub use wait::Wait;

/// Handle of a running rotation, for threads and futures. Cheap to clone. Dropping a handle changes nothing;
/// [`shutdown`](Self::shutdown) ends the rotation. Two handles are equal if they are handles of one rotation.
#[derive(Clone)]
pub struct Handle {
    pub(crate) link: Arc<Link>,
}

/// Shows the name only, and takes no lock. All else is in the [`snapshot`](Handle::snapshot).
impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.link, &other.link)
    }
}

impl Eq for Handle {}

impl Handle {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// The name of the certificate in logs, which [`Rotator::name`](crate::Rotator::name) has set; may be empty.
    pub fn name(&self) -> &str {
        self.link.name()
    }

    /// The credential to use now: a chain and its key. `None` before the first credential, and while the current
    /// credential has expired. Call this for each connection: a call costs a lock and a reading of the clock (50 ns).
    pub fn credential(&self) -> Option<Arc<Credential>> {
        let credential = self.link.snapshot().credential.clone()?;
        let expired = credential.chain().certificate().validity.expired(clock::now().unix);
        (!expired).then_some(credential)
    }

    /// The current activity of the rotation, such as requesting or backing off.
    pub fn state(&self) -> State {
        self.link.snapshot().state
    }

    /// The latest snapshot: the credential, the activity, the standing error and more, as of one moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.link.snapshot()
    }

    /// Waits for a valid credential. Ends at once if there is one.
    ///
    /// Failed requests do not end the wait, since the rotation tries again, and neither does a missing template, since
    /// [`set_template`](Self::set_template) may follow. As a future, the wait has no timeout: limit it with that of the
    /// executor, and read the last failure from [`Snapshot::last_error`].
    ///
    /// # Errors
    /// [`NotReady`]: the timeout has passed, the rotation has ended, or there is neither a signer nor a valid
    /// credential. A wait that fails does not end the rotation.
    pub fn ready(&self) -> Wait<'static, Result<Arc<Credential>, NotReady>> {
        let handle = self.clone();
        let check = move |link: &Link| {
            // Read `has_ended` before the credential: otherwise, the rotation could publish its last snapshot and end
            // between the two reads.
            let ended = link.has_ended();
            match handle.credential() {
                Some(credential) => Some(Ok(credential)),
                None if ended => Some(Err(NotReady::Ended)),
                None => (!link.has_signer()).then_some(Err(NotReady::NotConfigured)),
            }
        };
        self.wait_on(check, |link| {
            let now = link.snapshot();
            Err(NotReady::TimedOut { state: now.state, last_error: now.last_error.clone() })
        })
    }

    /// Waits until the snapshot differs from the snapshot at the time of this call, and returns the new snapshot.
    /// `None` if the rotation ends or the wait times out before that.
    pub fn changed(&self) -> Wait<'static, Option<Arc<Snapshot>>> {
        let seen = self.snapshot();
        let check = move |link: &Link| Some(link.snapshot()).filter(|now| !Arc::ptr_eq(now, &seen));
        self.wait_on(until_ended(check), |_| None)
    }

    /// Waits for a snapshot that satisfies `wanted`, and returns the snapshot. `None` if the rotation ends or the wait
    /// times out before that. Only the latest snapshot is checked: a state that passes between two checks is missed.
    pub fn wait_for<'a>(&self, wanted: impl Fn(&Snapshot) -> bool + Send + 'a) -> Wait<'a, Option<Arc<Snapshot>>> {
        let check = move |link: &Link| Some(link.snapshot()).filter(|snapshot| wanted(snapshot));
        self.wait_on(until_ended(check), |_| None)
    }

    /// Returns a receiver of the rotations from now on, each with the old and the new credential: for example, to close
    /// connections that were opened with the old credential.
    pub fn rotations(&self) -> Rotations {
        Rotations::new(self.link.clone())
    }

    /// Returns a queue of the news of the rotation from now on. The queue has room for `most` notices. To get the news
    /// of the start, too, subscribe between [`Rotator::prepare`](crate::Rotator::prepare) and the first step of the
    /// task.
    pub fn notices(&self, most: usize) -> Notices {
        Notices::new(self.link.clone(), self.link.subscribe(most))
    }

    /// True once the rotation has ended: its snapshot and its store do not change any more.
    pub fn has_ended(&self) -> bool {
        self.link.has_ended()
    }

    /// Sets the names to request from now on. With `None`, the rotation requests nothing. The current credential stays
    /// in use until a certificate with the new names is issued.
    ///
    /// # Errors
    /// [`TemplateError`]: no certificate can carry the names. The rotation continues with the names it has.
    pub fn set_template(&self, template: Option<Template>) -> Result<(), TemplateError> {
        template.as_ref().map_or(Ok(()), Template::check)?;
        self.link.send(Message::Input(Input::TemplateChanged(template.map(Arc::new))));
        Ok(())
    }

    /// Sets the timing. The rotation point moves; submissions already made still count against the submission budget.
    /// See [`Event::PolicyChanged`](perennial::Event::PolicyChanged).
    pub fn set_policy(&self, policy: Policy) {
        self.link.send(Message::Input(Input::PolicyChanged(Arc::new(policy))));
    }

    /// Sets the signer to request certificates from. `None` disables the rotation, as if it had been started without a
    /// signer: it only writes a certificate that it has accepted but not made durable yet.
    ///
    /// A signer with the name, the endpoint and the [digest](Signer::request_digest) of the last request continues that
    /// request. For any other signer, the request in flight is dropped, failures are forgotten, and the next request has a
    /// new key; the submission budget still holds. If the digest differs from that of the signer until now, the certificate
    /// is replaced at once. Otherwise, the rotation point stays, since it is computed from the name that the signer had at
    /// the start (or from [`Rotator::signer_name`](crate::Rotator::signer_name)). After a restart with another signer, the
    /// point may be another one.
    pub fn set_signer(&self, signer: Option<Arc<dyn Signer>>) {
        self.link.send(Message::Input(Input::SignerChanged(signer)));
    }

    /// Requests a new certificate, whether or not one is due. Returns at once; [`rotations`](Self::rotations) reports
    /// the new credential. The submission budget ([`Policy::budget`]) still holds.
    pub fn rotate_now(&self) {
        self.link.send(Message::Input(Input::RotateNow));
    }

    /// Reports that a server rejected this credential: HTTP 401, or a TLS alert. The rotation requests a replacement at
    /// once, with the bootstrap identity if there is one. Ignored unless the credential is the current credential.
    pub fn report_refused(&self, credential: &Credential) {
        let fingerprint = credential.chain().certificate().fingerprint;
        self.link.send(Message::Input(Input::Refused { fingerprint }));
    }

    /// Reports the `Date` of an answer that the program received from the signer's server. Once three readings in a row
    /// agree, a certificate counts as valid if it is valid by the local clock or by the server's clock.
    pub fn report_server_date(&self, date: ServerDate) {
        self.link.send(Message::Input(Input::ServerDated(date)));
    }

    /// Reports that another program has changed the store. `found` is the credential in the store now; `None` if there
    /// is none. If `found` is better than the current credential, the rotation uses `found`. If not, a rotation with a
    /// signer writes the current credential again.
    pub fn report_replaced(&self, found: Option<Arc<Credential>>) {
        self.link.send(Message::Input(Input::Replaced(found)));
    }

    /// Ends the rotation, even if the caller does not wait. The returned [`Wait`] ends once no call of the store or of
    /// the [key source](crate::KeySource) is running any more. A request in flight is dropped; its object stays at the
    /// signer. Credentials that were returned remain usable.
    pub fn shutdown(&self) -> Wait<'static, ()> {
        self.link.send(Message::Stop);
        self.wait_on(|link| link.has_ended().then_some(()), |_| ())
    }

    fn wait_on<'a, T>(&self, mut check: impl FnMut(&Link) -> Option<T> + Send + 'a, late: fn(&Link) -> T) -> Wait<'a, T>
    where
        T: 'a,
    {
        let [changing, link, too_late] = [(); 3].map(|()| self.link.clone());
        Wait::new(move || changing.changed.listen(), move || check(&link), move || late(&too_late))
    }
}

/// The rotated certificate as the identity of another rotation's requests. The requests wait while this rotation has no
/// valid certificate, and fail once this rotation has ended without one. If a server rejects the certificate, this
/// rotation replaces it: see [`Handle::report_refused`].
impl IdentitySource for Handle {
    fn identity(&self) -> Result<Identity, NotYet> {
        match self.credential() {
            Some(credential) => Ok(Identity::Certificate(credential)),
            None if self.has_ended() => {
                Err(NotYet::new("the rotation of the certificate that authenticates requests has ended"))
            }
            None => Err(NotYet::coming("waiting for the certificate that authenticates requests")),
        }
    }

    fn wake_on_change(&self, waker: &Waker) {
        self.link.wake_on_change(waker);
    }

    fn identity_refused(&self, identity: &Identity) {
        identity.certificate().into_iter().for_each(|shown| self.report_refused(shown));
    }
}

/// Wraps the `check` of a wait, so that the wait ends when the rotation ends. The wrapped check returns `Some(None)` if
/// the rotation has ended and `check` still returns `None`.
fn until_ended<T>(mut check: impl FnMut(&Link) -> Option<T>) -> impl FnMut(&Link) -> Option<Option<T>> {
    move |link| {
        // Read `has_ended` before the check: otherwise, the rotation could publish its last snapshot and end in
        // between.
        let ended = link.has_ended();
        check(link).map(Some).or(ended.then_some(None))
    }
}

/// Error of [`Handle::ready`]: there is no valid credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The wait took too long; the rotation continues.
    #[error("no valid certificate in time: {}", last_error.as_deref().unwrap_or(&state.to_string()))]
    TimedOut {
        /// Activity of the rotation at the timeout, such as backing off.
        state: State,
        /// The standing error, for people: [`Snapshot::last_error`].
        last_error: Option<Arc<str>>,
    },
    /// The rotation has ended.
    #[error("no valid certificate: the rotation has ended")]
    Ended,
    /// There is no signer, and the store holds no valid credential.
    #[error("no valid certificate, and no signer to request one from")]
    NotConfigured,
}
