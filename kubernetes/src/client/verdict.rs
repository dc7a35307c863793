//! Reading the outcome of a submission from the request object.

use perennial::{Failure, UnixTime};
use perennial_pki::{BadCertificate, Chain, Usage};

use super::desired_csr::DesiredCsr;
use crate::cluster::printable;
use crate::objects::{CertificateSigningRequest, ObjectMeta};

/// The state of a request object that is neither denied nor marked as failed.
pub(crate) enum Verdict {
    /// There is no certificate yet.
    Undecided {
        /// True if an approver has approved the request.
        approved: bool,
    },
    /// The request is approved, and the signer has issued this chain.
    Issued(Chain),
}

/// A request object, as a submission judges it.
pub(crate) struct Judged {
    pub(crate) metadata: ObjectMeta,
    pub(crate) verdict: Result<Verdict, Refusal>,
}

/// Why a submission has failed: the failure for the machine, and a sentence for people.
pub(crate) type Refusal = (Failure, String);

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
        if let Err(difference) = self.matches(&object.spec) {
            let what = format!(
                "an object of this name exists and requests {difference}; the next request has a new key, and so a new \
                 name"
            );
            return Err((Failure::Rejected, what));
        }
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
            let what = format!("{verdict}: {}: {}", printable(&condition.reason), printable(&condition.message));
            return Err((failure, what));
        }
        // As in client-go's `WaitForCertificate`, a certificate counts only in an approved request.
        if approved && !object.status.certificate.is_empty() {
            return self.accept(&object.status.certificate, found, now).map(Verdict::Issued);
        }
        Ok(Verdict::Undecided { approved })
    }

    /// Reads the issued chain, and checks that it grants the requested extended key usages. If the object existed
    /// before this submission, also checks that the certificate has not expired. The rotation checks the chain against
    /// key, template and policy.
    fn accept(&self, pem: &[u8], found: bool, now: UnixTime) -> Result<Chain, Refusal> {
        let chain = Chain::from_issued(pem).map_err(|error| (Failure::BadCertificate, error.to_string()))?;
        let validity = chain.certificate().validity;
        if found && validity.expired(now.before(self.skew)) {
            // Issued and expired while no submission waited for it: only a new request helps.
            return Err((Failure::Outdated, BadCertificate::Expired { not_after: validity.not_after() }.to_string()));
        }
        // Each extended usage that was requested must be granted, since a peer will require it. Key usages are not
        // compared, as in kubelet: the rotation checks digitalSignature, the only one that TLS needs.
        let is_asked = |usage: &Usage| self.usages.contains(&usage.to_string());
        let lacks = |usage: &Usage| !chain.is_for(*usage);
        match [Usage::ClientAuth, Usage::ServerAuth].into_iter().filter(is_asked).find(lacks) {
            Some(wanted) => Err((Failure::BadCertificate, BadCertificate::WrongUsage { wanted }.to_string())),
            None => Ok(chain),
        }
    }
}
