//! The CA, the store's faults and the identity that both twins share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use perennial::{Failure, Template, UnixTime, Validity};
use perennial_pki::{Chain, Credential, KeyAlgorithm, KeyPair};
use perennial_rotation::{
    Authentication, Cancel, Identity, IdentitySource, NotYet, SignError, SignRequest, SignWith, Signer,
};

use super::HOUR;
use crate::authority::Authority;

/// The answer of the CA to the next request that it signs: notBefore and notAfter from now, in seconds, or a failure.
pub(super) type Answer = Result<(i64, u32), Failure>;

/// A CA that both twins share, with the next answers of CA and store, and an identity that comes and goes.
pub(super) struct World {
    authority: Authority,
    pub(super) answer: Mutex<(Answer, UnixTime)>,
    pub(super) store_works: AtomicBool,
    pub(super) store_hangs: AtomicBool,
    pub(super) identity: Arc<Gate>,
}

/// The source of an identity that comes and goes.
pub(super) struct Gate(Mutex<(bool, Vec<Waker>)>);

impl Gate {
    pub(super) fn set(&self, is_open: bool) {
        let mut gate = self.0.lock().unwrap();
        gate.0 = is_open;
        let wakers = std::mem::take(&mut gate.1);
        drop(gate);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl IdentitySource for Gate {
    fn identity(&self) -> Result<Identity, NotYet> {
        self.0.lock().unwrap().0.then_some(Identity::Anonymous).ok_or_else(|| NotYet::coming("no identity yet"))
    }

    fn wake_on_change(&self, waker: &Waker) {
        self.0.lock().unwrap().1.push(waker.clone());
    }
}

impl World {
    pub(super) fn new(now: UnixTime) -> Self {
        let validity = Validity::new(now.before(HOUR), now.after(100_000 * HOUR)).unwrap();
        Self {
            authority: Authority::new(validity),
            answer: Mutex::new((Err(Failure::Unreachable), now)),
            store_works: AtomicBool::new(true),
            store_hangs: AtomicBool::new(false),
            identity: Arc::new(Gate(Mutex::new((true, vec![])))),
        }
    }

    fn sign(&self, template: &Template, public_key_der: &[u8]) -> Result<Chain, SignError> {
        let (answer, now) = *self.answer.lock().unwrap();
        let (begins, lasts) = answer.map_err(|failure| SignError::new(failure, "a failure"))?;
        let begin = UnixTime::from_secs(now.as_secs() + begins);
        let validity = Validity::new(begin, begin.after(Duration::from_secs(lasts.into()))).unwrap();
        Ok(self.authority.issue(template, public_key_der, validity))
    }

    /// A pair for this template, issued `age` ago, that lives for a day.
    pub(super) fn pair(&self, template: &Template, age: Duration, now: UnixTime) -> Arc<Credential> {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        *self.answer.lock().unwrap() = (Ok((-60, 86_400)), now.before(age));
        let chain = self.sign(template, key.public_key_der()).unwrap();
        Arc::new(Credential::new(chain, key).unwrap())
    }

    pub(super) fn signer(self: &Arc<Self>, name: &str) -> Arc<dyn Signer> {
        let ca = self.clone();
        let sign = move |request: SignRequest, _: &Cancel| ca.sign(&request.template, &request.public_key_der);
        Arc::new(SignWith::blocking(name, sign).authentication(Authentication::other(self.identity.clone())))
    }
}
