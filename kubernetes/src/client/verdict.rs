//! Reading the outcome of a submission from the request object.

use std::time::Duration;

use perennial::{Failure, RenewalHint, UnixTime};
use perennial_pki::{BadCertificate, Chain, KeyAlgorithm, Usage};

use super::desired_csr::DesiredCsr;
use crate::cluster::printable;
use crate::objects::{CertificateSigningRequest, Condition, ObjectMeta};

/// The state of a request object that is neither denied nor marked as failed.
pub(crate) enum Verdict {
    /// There is no certificate yet.
    Undecided {
        /// True if an approver has approved the request.
        approved: bool,
    },
    /// The request is approved, and the signer has issued this chain.
    Issued {
        chain: Chain,
        /// The signer's hint when to rotate the certificate, if there is one.
        renewal: Option<RenewalHint>,
    },
}

/// A request object, as a submission judges it.
pub(crate) struct Judged {
    pub(crate) metadata: ObjectMeta,
    pub(crate) verdict: Result<Verdict, Refusal>,
}

/// Why a submission has failed.
pub(crate) struct Refusal {
    /// The failure for the machine.
    pub(crate) failure: Failure,
    /// A sentence for people.
    pub(crate) what: String,
    /// The kind of keys that the signer accepts, if it has refused the key and names one.
    pub(crate) accepted_key: Option<KeyAlgorithm>,
}

impl Refusal {
    pub(crate) fn new(failure: Failure, what: impl Into<String>) -> Self {
        Self { failure, what: what.into(), accepted_key: None }
    }

    /// The refusal of an object that has the name of this request and another content. `difference` is a noun phrase.
    pub(crate) fn of_other_object(difference: &str) -> Self {
        let what = format!(
            "an object of this name exists and requests {difference}; the next request has a new key, and so a new name"
        );
        Self::new(Failure::Rejected, what)
    }

    /// The refusal by a condition of the object. `verdict` is a clause that names the party and its decision.
    pub(crate) fn by_condition(failure: Failure, verdict: &str, condition: &Condition) -> Self {
        let Condition { reason, message, .. } = condition;
        Self::new(failure, format!("{verdict}: {}: {}", printable(reason), printable(message)))
    }
}

/// Reads an issued chain. If the object `existed` before this submission, also checks that the certificate has not
/// expired. The rotation checks the chain against key, template and policy.
pub(crate) fn accept(pem: &[u8], existed: bool, skew: Duration, now: UnixTime) -> Result<Chain, Refusal> {
    let chain = Chain::from_issued(pem).map_err(|error| Refusal::new(Failure::BadCertificate, error.to_string()))?;
    let validity = chain.certificate().validity;
    if existed && validity.expired(now.before(skew)) {
        // Issued and expired while no submission waited for it: only a new request helps.
        let expired = BadCertificate::Expired { not_after: validity.not_after() };
        return Err(Refusal::new(Failure::Outdated, expired.to_string()));
    }
    Ok(chain)
}

impl DesiredCsr {
    /// Judges the state of the request object. `found` is true if the object existed before this submission: its
    /// certificate may have expired in the meantime.
    ///
    /// # Errors
    /// The [`Refusal`]: the object requests another certificate, is denied or failed, or holds an unusable certificate.
    pub(crate) fn verdict(
        &self,
        object: &CertificateSigningRequest,
        found: bool,
        now: UnixTime,
    ) -> Result<Verdict, Refusal> {
        // First of all: the conditions of another request are no verdict on this one.
        self.matches(&object.spec).map_err(Refusal::of_other_object)?;
        let mut approved = false;
        for condition in &object.status.conditions {
            let (failure, verdict) = match condition.type_.as_str() {
                "Denied" => (Failure::Denied, "an approver denied it"),
                "Failed" => (Failure::SignerFailed, "the signer refused it"),
                "Approved" => {
                    approved = true;
                    continue;
                }
                _ => continue,
            };
            return Err(Refusal::by_condition(failure, verdict, condition));
        }
        // As in client-go's `WaitForCertificate`, a certificate counts only in an approved request.
        if approved && !object.status.certificate.is_empty() {
            let chain = self.accept(&object.status.certificate, found, now)?;
            return Ok(Verdict::Issued { chain, renewal: None });
        }
        Ok(Verdict::Undecided { approved })
    }

    /// Reads the issued chain, and checks that it grants the requested extended key usages.
    fn accept(&self, pem: &[u8], found: bool, now: UnixTime) -> Result<Chain, Refusal> {
        let chain = accept(pem, found, self.skew, now)?;
        // Each extended usage that was requested must be granted, since a peer will require it. Key usages are not
        // compared, as in kubelet: the rotation checks digitalSignature, the only one that TLS needs.
        let is_asked = |usage: &Usage| self.usages.contains(&usage.to_string());
        let lacks = |usage: &Usage| !chain.is_for(*usage);
        match [Usage::ClientAuth, Usage::ServerAuth].into_iter().filter(is_asked).find(lacks) {
            Some(wanted) => {
                Err(Refusal::new(Failure::BadCertificate, BadCertificate::WrongUsage { wanted }.to_string()))
            }
            None => Ok(chain),
        }
    }
}
