//! [`Start`]: the configuration of a rotation, and the state that an earlier run left in the store.

use std::sync::{Arc, LazyLock};

use perennial::{Fingerprint, Key, Now, Policy, RotationMachine, Setup, SignerStatus, Template, TemplateError};
use perennial_pki::{Credential, KeyPair};

use super::Rotation;
use super::addressee::{Address, Addressee};
use super::keyed::KeysElsewhere;
use super::record::Record;
use super::saving::Saving;
use super::shortfall::foreign;
use crate::{KeySource, Signer, Stored};

/// Configuration and stored state that a rotation starts from. By default there is no signer and no credential.
#[derive(Debug)]
pub struct Start {
    /// The name that distinguishes the rotation from others in the log. Rotation points and jitter are computed from this
    /// name if the template has no common name.
    pub name: String,
    /// The timing: rotation window, backoff and submission budget.
    pub policy: Arc<Policy>,
    /// The signer to request certificates from. `None`: rotation is not enabled, and `credential` is served as it is.
    pub signer: Option<Arc<dyn Signer>>,
    /// The names to request; `None`: the rotation requests nothing until there is a template.
    pub template: Option<Arc<Template>>,
    /// The common name, if it is known before the rest of the template. Rotation points are computed from this name, so
    /// that a restart, or a tool that reads the directory, computes the same points.
    pub common_name: Option<String>,
    /// The name of the signer, if it is known before the signer: rotation points are computed from this name, too.
    pub signer_name: Option<String>,
    /// The contents of the store: the credential and its successor. If the credential is not at its usual place in the
    /// store ([`Stored::is_misplaced`]), the credential is due at once.
    pub stored: Stored,
    /// The record of the last [`Command::Save`](crate::Command::Save) of an earlier run. Of a record with another server,
    /// signer, [digest](Signer::request_digest), common name or key algorithm than wanted now, only the rotation point of the
    /// stored certificate is used. With another digest, that certificate is replaced at once.
    pub pending: Option<Record>,
    /// The source of keys that stay elsewhere; `None`: keys are generated in memory.
    pub keys: Option<Arc<dyn KeySource>>,
    /// True for a member of a fleet: the rotation submits a request only when it handles
    /// [`Input::TurnGranted`](crate::Input::TurnGranted), and the owner of the fleet checks the clocks.
    pub is_shared: bool,
}

impl Default for Start {
    fn default() -> Self {
        /// One policy for all rotations that keep the default: a process may have thousands.
        static POLICY: LazyLock<Arc<Policy>> = LazyLock::new(Arc::default);
        Self {
            name: String::new(),
            policy: POLICY.clone(),
            signer: None,
            template: None,
            common_name: None,
            signer_name: None,
            stored: Stored::default(),
            pending: None,
            keys: None,
            is_shared: false,
        }
    }
}

impl Start {
    /// Checks that a certificate can carry the names of the template, or that the signer chooses the names.
    pub(crate) fn check_template(&self) -> Result<(), TemplateError> {
        let chooses = self.signer.as_ref().is_some_and(|signer| signer.chooses_names());
        let checked = self.template.as_deref().filter(|template| !(chooses && template.is_empty()));
        checked.map_or(Ok(()), Template::check)
    }
}

impl Rotation {
    /// Makes a rotation. Its first Tick is due at `now`.
    pub fn new(start: Start, now: Now) -> Self {
        let Start { name, policy, signer, template, common_name, signer_name, stored, pending, keys, is_shared } =
            start;
        let Stored { mut credential, mut waiting, is_misplaced } = stored;
        if let Some(template) = &template {
            [&mut credential, &mut waiting].into_iter().flatten().for_each(|pair| share_names(pair, template));
        }
        let named_later = common_name.clone();
        // Includes the key of a foreign certificate: the certificate is not used, but must not be lost either.
        let stored = || [&credential, &waiting].into_iter().flatten().map(|pair| pair.key().clone()).collect();
        let keys = keys.map(|source| Box::new(KeysElsewhere { source, stored: stored() }));
        // Without a signer, another program manages the certificate and chooses its name.
        let common_name = common_name.filter(|_| signer.is_some());
        let wanted = template.as_deref().map_or(common_name.as_deref(), Template::wanted_common_name);
        let foreign = foreign_to(wanted, credential.as_deref()).map(Arc::from);
        let credential = credential.filter(|_| foreign.is_none());
        let named = name_of(template.as_deref(), credential.as_deref()).or(common_name.as_deref());
        // About the stored certificate, whether or not its request is of use.
        let renewal = pending.as_ref().and_then(|record| record.renewal);
        let outdated = outdated(pending.as_ref(), signer.as_deref(), credential.as_deref());
        let record = pending.filter(|record| is_of_use(record, signer.as_deref(), named));
        // The current signer if there is one, since a record of an old version does not name the signer's endpoint.
        let addressee = record.as_ref().map(|record| match signer {
            Some(_) => Addressee::Current,
            None => Addressee::Former(Box::new(Address::of_record(record))),
        });
        let named = named.or_else(|| record.as_ref().map(|record| record.pending.template.common_name()));
        // Rotation points are drawn from signer name and common name: restarts, and tools that read the directory, know
        // both. Without a common name, the rotations of one signer differ in their own names alone.
        let signed_by = signer.as_ref().map(|signer| signer.name()).or(signer_name.as_deref());
        let drawn_by = named.or(named_later.as_deref()).filter(|named| !named.is_empty()).unwrap_or(&name);
        let seed = perennial::seed(signed_by.unwrap_or(""), drawn_by);
        let saving = Saving::new(record.as_ref());
        let (request_name, pending, key) =
            record.map_or_else(Default::default, |Record { request_name, mut pending, key, .. }| {
                // The certificate of the record's key is stored, and the process ended before it saved a record without
                // the key: the key is spent.
                let pairs = [&credential, &waiting].into_iter().flatten();
                // A key in memory is not used any more once keys stay elsewhere.
                let key = key
                    .filter(|key| pairs.clone().all(|pair| pair.key().public_key_der() != key.public_key_der()))
                    .filter(|key| keys.is_none() || key.reference().is_some());
                pending.key = if key.is_some() { Key::Pending } else { Key::New };
                (request_name, Some(pending), key)
            });
        let setup = Setup {
            policy,
            seed,
            signer: if signer.is_some() { ready(is_shared) } else { SignerStatus::Absent },
            certificate: credential.as_ref().map(|credential| credential.chain().certificate().clone()),
            waiting: waiting.as_ref().map(|waiting| waiting.chain().certificate().clone()),
            // The last run's request has not ended: continue it, even if its reason, such as RotateNow, has not
            // survived.
            rotate_now: signer.is_some()
                && (is_misplaced
                    || outdated.is_some()
                    || pending.as_ref().is_some_and(|pending| {
                        let wanted = template.as_ref().is_none_or(|template| *template == pending.template);
                        credential.is_some() && pending.key == Key::Pending && wanted
                    })),
            template,
            pending,
            renewal,
        };
        let machine = Arc::new(RotationMachine::new(setup, now));
        // The machine may have rejected the waiting certificate.
        let waiting = waiting.filter(|_| machine.waiting().is_some());
        let mut rotation = Self {
            in_place: machine.certificate().cloned(),
            machine,
            signer,
            served: credential,
            waiting,
            pending: key,
            addressee,
            outdated: outdated.map(Box::new),
            request_name: request_name.into(),
            saving,
            common_name: common_name.map(Into::into),
            keys,
            is_shared,
            ..Self::default()
        };
        rotation.note_foreign(foreign);
        rotation.remind(now);
        rotation
    }
}

/// Shares the names of the pair with an equal template, unless another owner holds the pair, such as a store in memory.
pub(super) fn share_names(pair: &mut Arc<Credential>, template: &Arc<Template>) {
    if let Some(pair) = Arc::get_mut(pair) {
        pair.share_names(template);
    }
}

/// The status of a signer that is ready.
pub(super) const fn ready(is_shared: bool) -> SignerStatus {
    if is_shared { SignerStatus::Shared } else { SignerStatus::Ready }
}

/// The common name of the template; without a template, that of the stored credential.
fn name_of<'a>(template: Option<&'a Template>, credential: Option<&'a Credential>) -> Option<&'a str> {
    let held = credential.map(|credential| credential.chain().certificate().common_name());
    template.map(Template::common_name).or(held)
}

/// The error text for a credential whose common name is not the wanted one; `None` if the names agree.
pub(super) fn foreign_to(wanted: Option<&str>, found: Option<&Credential>) -> Option<String> {
    let (wanted, found) = wanted.zip(found.map(|found| found.chain().certificate()))?;
    (found.common_name() != wanted).then(|| foreign(found, wanted))
}

/// The fingerprint of the stored certificate, if the record shows that a request with another digest has led to it.
fn outdated(record: Option<&Record>, signer: Option<&dyn Signer>, stored: Option<&Credential>) -> Option<Fingerprint> {
    let fingerprint = stored?.chain().certificate().fingerprint;
    let (record, signer) = record.zip(signer)?;
    record.outdates(fingerprint, signer.request_digest().as_deref()).then_some(fingerprint)
}

/// True if the record is of the signer, endpoint, key algorithm and common name that are wanted now. Without a signer,
/// a record of any signer is of use, since a later signer may continue the request.
fn is_of_use(record: &Record, signer: Option<&dyn Signer>, named: Option<&str>) -> bool {
    let of_signer = signer.is_none_or(|signer| {
        let fits = |key: &Arc<KeyPair>| signer.profile().allows(key.algorithm());
        Address::of_record(record).is(signer) && record.key.as_ref().is_none_or(fits)
    });
    of_signer && named.is_none_or(|name| name == record.pending.template.common_name())
}
