//! [`SignerRoots`]: the CAs in the chains that a signer issues.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};

use perennial::{Fingerprint, UnixTime};
use perennial_pki::{Chain, Roots};

use crate::handle::Handle;
use crate::{IdentitySource as _, NotYet, RootsSource, clock};

/// Source of CAs: the CA certificates in the chains that the signer of a rotation issues. A peer with a certificate of
/// the same signer is then trusted. The signer has to append its CA certificates to the leaf, which Kubernetes signers
/// seldom do.
///
/// The CAs of a chain are trusted until its leaf expires, also after a rotation, since peers do not all rotate at the
/// same time.
///
/// To change the CA without refused connections, the signer goes through two phases. First the old CA still signs, and
/// the signer appends two certificates to each leaf: one that the new CA has issued for the old CA, and the new CA's
/// own. Once all peers have rotated, they trust both CAs, and the new CA signs.
#[derive(Debug)]
pub struct SignerRoots {
    follower: Arc<Follower>,
}

/// Records the CAs of each chain of a rotation when the chain is issued, since handshakes may come too seldom to see
/// every chain.
#[derive(Debug)]
struct Follower {
    handle: Handle,
    /// Wakes this follower.
    waker: Waker,
    seen: Mutex<Seen>,
}

/// Wakes a [`Follower`] at each change of the rotation, if its [`SignerRoots`] still exists.
struct OnChange(Weak<Follower>);

#[derive(Debug, Default)]
struct Seen {
    /// The leaf of the latest chain; `None` before the first chain.
    leaf: Option<Fingerprint>,
    /// The different sets of CAs in the chains so far. Each is trusted until the time beside it, when the last leaf
    /// with these CAs expires. Expired ones stay until the next chain: the clock may have been wrong for a moment.
    issuers: Vec<(Roots, UnixTime)>,
    /// The number of trusted sets in `issuers`, and the CAs of all of them; `None` if they must be joined again, since
    /// `issuers` has changed.
    joined: Option<(usize, Roots)>,
}

impl SignerRoots {
    /// Makes a source of the CAs of this rotation's signer.
    pub fn new(handle: &Handle) -> Self {
        let follower = Arc::new_cyclic(|follower: &Weak<Follower>| {
            let waker = Waker::from(Arc::new(OnChange(follower.clone())));
            Follower { handle: handle.clone(), waker, seen: Mutex::default() }
        });
        follower.follow();
        Self { follower }
    }
}

impl RootsSource for SignerRoots {
    fn roots(&self) -> Result<Roots, NotYet> {
        self.follower.seen().roots(clock::now().unix)
    }

    fn origin(&self) -> String {
        "the chains that the signer issued".to_owned()
    }
}

impl Follower {
    /// Records the CAs of the current chain, and asks the rotation to wake this follower at the next change.
    fn follow(&self) {
        // Registered before the chain is read, so that a later chain wakes this waker.
        self.handle.wake_on_change(&self.waker);
        if let Some(credential) = &self.handle.snapshot().credential {
            self.seen().add(credential.chain());
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for OnChange {
    fn wake(self: Arc<Self>) {
        if let Some(follower) = self.0.upgrade() {
            follower.follow();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Else a program that makes a source for each connection would collect wakers until the next rotation.
        self.handle.link.forget(&self.waker);
    }
}

impl Seen {
    fn roots(&mut self, now: UnixTime) -> Result<Roots, NotYet> {
        let trusted: Vec<&Roots> =
            self.issuers.iter().filter(|(_, until)| now <= *until).map(|(roots, _)| roots).collect();
        match &self.joined {
            // As many as before are the same as before: they are those that expire last.
            Some((count, joined)) if *count == trusted.len() => return Ok(joined.clone()),
            _ => {}
        }
        let joined = Roots::joined(trusted.iter().copied()).map_err(|_| {
            NotYet::new(match self.leaf {
                None => "no certificate has been issued yet",
                Some(_) if self.issuers.is_empty() => {
                    "the signer issues chains without a CA certificate; read the CA from a file instead"
                }
                Some(_) => "all certificates that the signer issued with a CA certificate have expired",
            })
        })?;
        self.joined = Some((trusted.len(), joined.clone()));
        Ok(joined)
    }

    fn add(&mut self, chain: &Chain) {
        let leaf = chain.certificate();
        if self.leaf.replace(leaf.fingerprint) == Some(leaf.fingerprint) {
            return;
        }
        let Ok(roots) = chain.issuers() else { return };
        let until = leaf.validity.not_after();
        // Expired by the clock of the signer, which does not jump.
        self.issuers.retain(|(_, until)| leaf.validity.not_before() <= *until);
        self.joined = None;
        match self.issuers.iter_mut().find(|(known, _)| *known == roots) {
            Some((_, last)) => *last = until.max(*last),
            None => self.issuers.push((roots, until)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perennial::{Template, Validity};
    use perennial_pki::{
        Credential, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Terms, certificate_request, read_request, self_signed,
    };

    use super::*;
    use crate::Rotator;

    fn at(hour: i64) -> UnixTime {
        UnixTime::from_secs(1_767_225_600 + hour * 3600)
    }

    fn new_ca(name: &str) -> Issuer {
        let key = Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let chain = self_signed(name, &key, &[1], Validity::new(at(-1), at(1000)).unwrap()).unwrap();
        Issuer::new(Credential::new(chain, key).unwrap()).unwrap()
    }

    /// A chain that `ca` has issued: a leaf that expires at the hour `expiry`, and the certificates of `appended` after
    /// it.
    fn chain(ca: &Issuer, expiry: i64, appended: &[&Issuer]) -> Chain {
        let key = KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let request = certificate_request(&Template::new("peer"), &key).unwrap();
        let terms = Terms {
            serial: &[u8::try_from(expiry).unwrap()],
            validity: Validity::new(at(-1), at(expiry)).unwrap(),
            key_usages: &[KeyUsage::DigitalSignature],
            extended_key_usages: &[],
        };
        let leaf = ca.issue(&read_request(request.pem.as_bytes()).unwrap(), &terms).unwrap();
        let appended = appended.iter().map(|ca| ca.credential().chain().pem());
        Chain::from_pem([leaf.pem()].into_iter().chain(appended).collect::<String>().as_bytes()).unwrap()
    }

    fn trusted(seen: &mut Seen, now: UnixTime) -> Result<Vec<String>, String> {
        Ok(seen.roots(now).map_err(|error| error.to_string())?.subjects().collect())
    }

    #[test]
    fn old_ca_is_trusted_until_its_last_leaf_expires() {
        let (old, new) = (new_ca("old"), new_ca("new"));
        let mut seen = Seen::default();
        assert_eq!(trusted(&mut seen, at(0)).unwrap_err(), "no certificate has been issued yet");
        let [only_old, both, only_new] = [vec!["CN=old"], vec!["CN=old", "CN=new"], vec!["CN=new"]];
        let one_second_before = |time: UnixTime| time.before(Duration::from_secs(1));
        #[rustfmt::skip]
        let steps = [
            (Some(chain(&old, 10, &[&old])), at(0), &only_old),
            (Some(chain(&old, 20, &[&old])), at(5), &only_old),
            // The second leaf of the old CA is good for longer.
            (None, at(11), &only_old),
            (Some(chain(&new, 40, &[&new])), at(12), &both),
            // An older leaf again, as after a restore of the store.
            (Some(chain(&old, 15, &[&old])), at(12), &both),
            (None, one_second_before(at(20)), &both),
            (None, at(20).after(Duration::from_secs(1)), &only_new),
        ];
        for (issued, now, expected) in steps {
            issued.iter().for_each(|chain| seen.add(chain));
            assert_eq!(trusted(&mut seen, now).unwrap(), *expected, "at {now}");
        }
        assert!(seen.roots(at(41)).is_err());
    }

    #[test]
    fn dropped_source_leaves_no_waker_behind() {
        let (handle, _task) = Rotator::new().prepare().unwrap();
        let kept = SignerRoots::new(&handle);
        (0..100).for_each(|_| drop(SignerRoots::new(&handle)));
        assert_eq!(handle.link.waiting(), 1);
        drop(kept);
        assert_eq!(handle.link.waiting(), 0);
    }

    #[test]
    fn clock_that_jumps_ahead_and_back_loses_no_ca() {
        let (old, new) = (new_ca("old"), new_ca("new"));
        let mut seen = Seen::default();
        seen.add(&chain(&old, 20, &[&old]));
        let far = at(24 * 365);
        for now in [at(0), far, at(0)] {
            let expired = "all certificates that the signer issued with a CA certificate have expired";
            let expected = if now == far { Err(expired.to_owned()) } else { Ok(vec!["CN=old".to_owned()]) };
            assert_eq!(trusted(&mut seen, now), expected, "at {now}");
        }
        // Nor does a chain that is issued in the meantime.
        trusted(&mut seen, far).unwrap_err();
        seen.add(&chain(&new, 40, &[&new]));
        trusted(&mut seen, far).unwrap_err();
        assert_eq!(trusted(&mut seen, at(1)).unwrap(), ["CN=old", "CN=new"]);
    }

    #[test]
    fn chain_without_ca_leaves_trusted_cas_unchanged() {
        let (ca, next) = (new_ca("one"), new_ca("two"));
        let mut seen = Seen::default();
        seen.add(&chain(&ca, 10, &[]));
        let error = trusted(&mut seen, at(0)).unwrap_err();
        assert!(error.starts_with("the signer issues chains without a CA certificate"), "{error}");
        // A signer may append the CA that will sign next.
        seen.add(&chain(&ca, 20, &[&ca, &next]));
        assert_eq!(trusted(&mut seen, at(0)).unwrap(), ["CN=one", "CN=two"]);
        seen.add(&chain(&next, 30, &[]));
        assert_eq!(trusted(&mut seen, at(20)).unwrap(), ["CN=one", "CN=two"]);
        trusted(&mut seen, at(21)).unwrap_err();
    }
}
