//! [`Rotator`]: the builder of a rotation.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial::{Policy, Template, TemplateError};
use perennial_pki::Chain;

use crate::clock;
use crate::fleet::hub::WeakFleetEnding;
use crate::handle::Handle;
use crate::handle::link::Link;
use crate::task::Task;
use crate::{
    Cancel, KeySource, LoadRequest, Memory, Record, Rotation, SignError, SignRequest, SignWith, Signer, Start, Store,
    StoreError,
};

/// Builder of a rotation. The order of the calls does not matter, and nothing is read or started before
/// [`prepare`](Self::prepare), which the `start` of a runtime calls.
///
/// Everything is optional: without a signer or a template, the credential of the store is served as it is; without a
/// store, a credential lives as long as the process.
#[derive(Debug, Default)]
pub struct Rotator {
    start: Start,
    store: Option<Arc<dyn Store>>,
}

impl Rotator {
    /// Makes a builder with the default policy, a store in memory, and neither signer nor template.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name of the certificate in logs, for a process that rotates several certificates. Without a common name
    /// in the template, rotation points and jitter are computed from this name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.start.name = name.into();
        self
    }

    /// Sets the timing: rotation window, backoff and submission budget.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.start.policy = Arc::new(policy);
        self
    }

    /// Sets the names to request; [`prepare`](Self::prepare) checks them. A template without names leaves them to the
    /// signer, if the signer [chooses names](Signer::chooses_names). [`Handle::set_template`] sets or changes them
    /// later.
    ///
    /// A certificate in the store is served from the start if its common name is that of the template, and replaced at
    /// once if other names are missing. Without a common name, this is every certificate that has none: a service that
    /// is known by its SPIFFE ID alone should have a common name, too, if it could be given the store of another one.
    #[must_use]
    pub fn template(mut self, template: Template) -> Self {
        self.start.template = Some(Arc::new(template));
        self
    }

    /// Sets the common name, for a program that sets the template later: rotation points are computed from the common
    /// name, and a restart must compute the same points.
    #[must_use]
    pub fn common_name(mut self, name: impl Into<String>) -> Self {
        self.start.common_name = Some(name.into());
        self
    }

    /// Sets the name of the signer, for a program that sets the signer later ([`Handle::set_signer`]): rotation points
    /// are computed from this name, too. Without a signer, neither this name nor [`common_name`](Self::common_name)
    /// restricts which certificate of the store is used.
    #[must_use]
    pub fn signer_name(mut self, name: impl Into<String>) -> Self {
        self.start.signer_name = Some(name.into());
        self
    }

    /// Sets the signer to request certificates from.
    #[must_use]
    pub fn signer(mut self, signer: impl Signer + 'static) -> Self {
        self.start.signer = Some(Arc::new(signer));
        self
    }

    /// Sets a closure that may block as the signer of client certificates: see [`SignWith::blocking`]. For other
    /// usages, pass `SignWith::blocking(..).usages([Usage::ServerAuth])` to [`signer`](Self::signer).
    #[must_use]
    pub fn sign_with<F>(self, name: impl Into<String>, sign: F) -> Self
    where
        F: Fn(SignRequest, &Cancel) -> Result<Chain, SignError> + Send + Sync + 'static,
    {
        self.signer(SignWith::blocking(name, sign))
    }

    /// Sets a closure that returns a future as the signer of client certificates: see [`SignWith::future`].
    #[must_use]
    pub fn sign_with_async<F, Fut>(self, name: impl Into<String>, sign: F) -> Self
    where
        F: Fn(SignRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Chain, SignError>> + Send + 'static,
    {
        self.signer(SignWith::future(name, sign))
    }

    /// Sets the source of keys that stay elsewhere, such as in an HSM. By default, keys are generated in memory. If the
    /// store has a certificate whose key is in memory, this certificate is used until its rotation point; its successor
    /// has a key of this source.
    #[must_use]
    pub fn keys(mut self, keys: impl KeySource + 'static) -> Self {
        self.start.keys = Some(Arc::new(keys));
        self
    }

    /// Sets the store of the credential and of the pending record: memory by default.
    #[must_use]
    pub fn store(self, store: impl Store + 'static) -> Self {
        Self { store: Some(Arc::new(store)), ..self }
    }

    /// Reads the store. Returns the handle, which has the stored credential at once, and the task, which a runtime has
    /// to run.
    ///
    /// With a [`Directory`](crate::Directory), blocks for up to about thirty seconds if a pair cannot be read, since
    /// another program may still be writing that pair.
    ///
    /// # Errors
    /// [`StartError::Template`]: no certificate can carry the names of the template; the store was not read.
    /// [`StartError::Store`]: the store cannot be read.
    pub fn prepare(self) -> Result<(Handle, Task), StartError> {
        self.prepare_for(None)
    }

    /// Prepares as [`prepare`](Self::prepare) does, for a member of this fleet. A store that does not answer does not
    /// keep the fleet from ending.
    pub(crate) fn prepare_for(self, fleet: Option<&WeakFleetEnding>) -> Result<(Handle, Task), StartError> {
        let Self { mut start, store } = self;
        start.is_shared = fleet.is_some();
        start.check_template()?;
        let store = store.unwrap_or_else(|| Arc::new(Memory::default()));
        let has_signer = start.signer.is_some();
        let later = start.common_name.as_deref().filter(|_| has_signer);
        let common_name = start.template.as_deref().map_or(later, Template::wanted_common_name);
        let keys = start.keys.as_deref();
        let digest = start.signer.as_ref().and_then(|signer| signer.request_digest());
        let request_digest = digest.as_deref();
        let request = LoadRequest { common_name, has_signer, now: clock::now().unix, keys, request_digest };
        start.stored = contain(|| store.load(&request)).map_err(StartError::Store)?;
        start.pending = recall(&*store, keys);
        let fleet = fleet.map(|fleet| fleet.upgrade().ok_or(StartError::FleetEnded)).transpose()?;
        // Read again: loading may have taken seconds.
        let now = clock::now();
        let name = start.name.clone();
        let rotation = Rotation::new(start, now);
        let hub = fleet.as_ref().map(|fleet| fleet.hub().clone());
        let link = Arc::new(Link::new(name, rotation.snapshot(now), rotation.machine().clone(), hub));
        Ok((Handle::new(link.clone()), Task::new(rotation, store, link, fleet)))
    }
}

/// Reads the pending record of an earlier run; `None` if the store has none, or if the record cannot be read. An
/// unreadable record stays in the store until the next record replaces it.
fn recall(store: &dyn Store, keys: Option<&dyn KeySource>) -> Option<Record> {
    let read = || {
        let Some(contents) = store.recall()? else { return Ok(None) };
        Ok(Some(Record::decode_with(&contents, keys)?))
    };
    contain(read).unwrap_or_else(|why| {
        tracing::warn!(
            "ignoring the pending record: {why}; the next request is a new one, and its record replaces this one"
        );
        None
    })
}

/// Calls the store and, through it, the key source. Turns a panic of either into an error, without the panic's message,
/// which may quote the contents of the store.
fn contain<T>(call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("the store or the key source panicked".into()))
}

/// Error of a rotation that could not start. No request was submitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No certificate can carry the names of the template.
    #[error("{0}")]
    Template(#[from] TemplateError),
    /// The store cannot be read.
    #[error("{0}")]
    Store(#[source] StoreError),
    /// The fleet has ended, or is ending: it takes no further members.
    #[error("the fleet has ended")]
    FleetEnded,
    /// The operating system cannot start another thread.
    #[error("cannot start a thread for a rotation: {0}; raise the limit of threads")]
    Thread(#[source] io::Error),
}
