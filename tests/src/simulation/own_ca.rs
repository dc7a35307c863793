//! A CA in the node's own process, in virtual time. The node's signer is a closure that calls the CA, and a rule
//! decides each answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial::{Failure, UnixTime, Validity};
use perennial_pki::{
    Chain, Credential, Issuer, KeyUsage, RequestFacts, Roots, Terms, Usage, read_request, self_signed,
};
use perennial_rotation::{Profile, SignError, SignRequest, SignWith};

use super::{DAY, START, key};

/// Decides the CA's answer to a request.
type Rule = Arc<dyn Fn(&OwnCa, &SignRequest) -> Result<Chain, SignError> + Send + Sync>;

/// A CA in a node's own process. A test may replace the rule that decides the answers.
pub struct OwnCa {
    /// The lifetime of issued certificates.
    pub lifetime: Duration,
    issuer: Issuer,
    rule: Mutex<Rule>,
    wall_clock: Box<dyn Fn() -> UnixTime + Send + Sync>,
    issued: AtomicU64,
}

impl OwnCa {
    /// A CA that reads this clock and signs every request. Issued certificates are valid for `lifetime`.
    pub fn new(wall_clock: impl Fn() -> UnixTime + Send + Sync + 'static, lifetime: Duration) -> Arc<Self> {
        let validity = Validity::new(START, START.after(1000 * DAY)).unwrap();
        let key = key();
        let chain = self_signed("mesh CA", &key, &[1], validity).unwrap();
        let issuer = Issuer::new(Credential::new(chain, Arc::new(key)).unwrap()).unwrap();
        Arc::new(Self {
            lifetime,
            issuer,
            rule: Mutex::new(Arc::new(Self::sign)),
            wall_clock: Box::new(wall_clock),
            issued: AtomicU64::new(0),
        })
    }

    /// Replaces the rule that answers requests.
    pub fn set_rule(&self, rule: impl Fn(&Self, &SignRequest) -> Result<Chain, SignError> + Send + Sync + 'static) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// A signer that answers each request by the CA's rule: in a future if `is_async`, else in a blocking closure. The
    /// rotation accepts from the signer only client certificates that chain to this CA.
    pub fn signer(self: &Arc<Self>, is_async: bool) -> SignWith {
        let (ca, name) = (self.clone(), "example.com/mesh");
        let answer = move |request: &SignRequest| {
            let rule = ca.rule.lock().unwrap_or_else(PoisonError::into_inner).clone();
            rule(&ca, request)
        };
        let signer = match is_async {
            false => SignWith::blocking(name, move |request, _| answer(&request)),
            true => {
                let answer = Arc::new(answer);
                SignWith::future(name, move |request| {
                    let answer = answer.clone();
                    async move { answer(&request) }
                })
            }
        };
        let roots = Roots::from_pem(self.issuer.credential().chain().pem().as_bytes()).unwrap();
        signer.profile(Profile { issuers: Some(roots), ..Profile::new([Usage::ClientAuth]) })
    }

    /// The rule of a healthy CA: signs every request.
    ///
    /// # Errors
    /// The request cannot be read.
    pub fn sign(&self, request: &SignRequest) -> Result<Chain, SignError> {
        self.issue(&Self::read(request)?, self.now(), self.lifetime, Usage::ClientAuth)
    }

    /// Reads a request: its names and its public key.
    ///
    /// # Errors
    /// The request cannot be read.
    pub fn read(request: &SignRequest) -> Result<RequestFacts, SignError> {
        let facts = read_request(request.csr.pem.as_bytes());
        facts.map_err(|error| SignError::new(Failure::Rejected, error.to_string()))
    }

    /// Signs a certificate, valid from `begin` for `lifetime`.
    ///
    /// # Errors
    /// The signer fails.
    pub fn issue(
        &self,
        request: &RequestFacts,
        begin: UnixTime,
        lifetime: Duration,
        usage: Usage,
    ) -> Result<Chain, SignError> {
        let serial = self.issued.fetch_add(1, Ordering::Relaxed) + 2;
        let terms = Terms {
            serial: &serial.to_be_bytes(),
            validity: Validity::new(begin, begin.after(lifetime)).unwrap(),
            key_usages: &[KeyUsage::DigitalSignature],
            extended_key_usages: &[usage],
        };
        let issued = self.issuer.issue(request, &terms);
        issued.map_err(|error| SignError::new(Failure::SignerFailed, error.to_string()))
    }

    /// The current time of the CA's clock.
    pub fn now(&self) -> UnixTime {
        (self.wall_clock)()
    }
}
