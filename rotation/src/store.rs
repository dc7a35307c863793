//! [`Store`]: storage of a rotation's credential and of its pending record.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::store::{Found, Layout};
use perennial::{Certificate, UnixTime};
use perennial_pki::{Credential, CredentialError, KeyError};
use zeroize::Zeroizing;

use crate::key_source::KeySource;

/// Error of a [`Store`], shown to people unchanged: its text should name the file or table, and the remedy.
pub type StoreError = Box<dyn Error + Send + Sync>;

/// Storage of a rotation's credential, and of the pending record that lets a restart continue the last request.
///
/// [`Rotator::prepare`](crate::Rotator::prepare) calls `load` and `recall` on the thread of its caller. A runtime calls
/// `write` and `remember` outside its loop, one call at a time, so that they may block. If
/// [`is_instant`](Self::is_instant) returns true, a runtime may call them on its loop. A call returns `Ok` only once
/// its data is durable. Credential and record are secret: each contains a private key, or with a
/// [`KeySource`](crate::KeySource) the reference of one.
#[auto_impl::auto_impl(Arc)]
pub trait Store: Debug + Send + Sync {
    /// Reads the credential that the rotation starts from. The store itself logs problems that do not prevent the
    /// start.
    ///
    /// # Errors
    /// The store cannot be read. The rotation does not start.
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError>;

    /// Stores a credential durably. If `serve` is true, the credential replaces the current credential. If `serve` is
    /// false, the credential is not valid yet: it is stored beside the current credential, until a later call writes it
    /// with `serve`.
    ///
    /// # Errors
    /// The new credential is not durable; the credential stored before still is. The rotation serves the new credential
    /// from memory, and repeats the call later.
    fn write(&self, credential: &Arc<Credential>, serve: bool, now: UnixTime) -> Result<(), StoreError>;

    /// Reads the pending record that was last given to [`remember`](Self::remember); `None` if there is none.
    ///
    /// # Errors
    /// The record cannot be read. The rotation starts without a record: its next request is a new one, whose record
    /// replaces the unreadable one.
    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError>;

    /// Replaces the pending record durably.
    ///
    /// # Errors
    /// The new record is not durable. The rotation submits its request nevertheless, and repeats the call later.
    fn remember(&self, record: &[u8]) -> Result<(), StoreError>;

    /// True if all calls to this store return at once, so that a runtime may make them on its loop. False by default.
    fn is_instant(&self) -> bool {
        false
    }
}

/// Parameters of [`Store::load`].
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest<'a> {
    /// The common name of the wanted credential, if it is known.
    pub common_name: Option<&'a str>,
    /// True if the rotation has a signer. If false, another program owns the store: change nothing in it.
    pub has_signer: bool,
    /// The time by the wall clock.
    pub now: UnixTime,
    /// The source of keys that stay elsewhere; `None`: keys are in memory and in the store.
    pub keys: Option<&'a dyn KeySource>,
    /// The signer's [`request_digest`](crate::Signer::request_digest).
    pub request_digest: Option<&'a str>,
}

impl LoadRequest<'_> {
    /// True if this credential has the wanted common name, or if that name is not known.
    pub(crate) fn wants(&self, held: &Credential) -> bool {
        self.common_name.is_none_or(|name| facts(held).common_name() == name)
    }

    /// Reads a pair that [`Credential::to_pem`] wrote, with the key from the [key source](KeySource) if the text has
    /// only the reference of a key.
    ///
    /// # Errors
    /// [`CredentialError`]: the text is no pair, or the key source does not find the key, or the key does not sign.
    pub fn read_pair(&self, pem: &[u8]) -> Result<Credential, CredentialError> {
        match self.keys {
            Some(keys) => Credential::from_pem_with(pem, |reference| keys.find(reference)),
            None => Credential::from_pem(pem),
        }
    }
}

/// The credentials in a store, as [`Store::load`] returns them.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// The credential to start from, valid or expired. If its common name is not the wanted one, the rotation reports
    /// the credential and does not use it.
    pub credential: Option<Arc<Credential>>,
    /// The successor of `credential`, not valid yet.
    pub waiting: Option<Arc<Credential>>,
    /// True if other programs that read the store do not find `credential` at its usual place: a rotation with a signer
    /// then requests a new one at once.
    pub is_misplaced: bool,
}

impl Stored {
    /// Chooses from all credentials of a store, as the credential directory does. Credentials with the wanted common
    /// name come first. Among them, the choice is the valid credential that expires last; if none is valid, the
    /// credential with the latest notAfter. If the chosen credential is valid, its successor becomes
    /// [`waiting`](Self::waiting): of the credentials that are not valid yet, the one with the latest notBefore.
    pub fn best_of(mut all: Vec<Arc<Credential>>, request: &LoadRequest<'_>) -> Self {
        // If all are for other names, the rotation reports one of them.
        if all.iter().any(|held| request.wants(held)) {
            all.retain(|held| request.wants(held));
        }
        let found = all.iter().map(|held| facts(held));
        let found = found.map(|held| Found { in_use: false, common_name: held.common_name(), validity: held.validity });
        let best = Layout::best(&found.collect::<Vec<_>>(), &[], request.now).map(|best| all[best].clone());
        let waiting = best.as_ref().and_then(|best| waiting_beside(best, all, request.now));
        Self { credential: best, waiting, is_misplaced: false }
    }
}

/// Returns the successor of `held` in `others`: a credential with the same common name that is not valid yet. Of
/// several, returns the one with the latest notBefore. `None` if there is no successor, or if `held` is not valid.
pub(crate) fn waiting_beside(
    held: &Credential,
    others: impl IntoIterator<Item = Arc<Credential>>,
    now: UnixTime,
) -> Option<Arc<Credential>> {
    let held = facts(held);
    if held.validity.not_before() > now || held.validity.expired(now) {
        return None;
    }
    let begins = |other: &Arc<Credential>| facts(other).validity.not_before();
    let waiting =
        others.into_iter().filter(|other| begins(other) > now && facts(other).common_name() == held.common_name());
    waiting.max_by_key(begins)
}

fn facts(credential: &Credential) -> &Certificate {
    credential.chain().certificate()
}

const CURRENT: &str = "current";
const WAITING: &str = "waiting";

/// Storage of values under keys, such as a table of a database. Every `KeyValue` is also a [`Store`], so that a program
/// needs little code for a store of its own. The keys are `current` and `waiting`, each for a pair in PEM, and
/// `record`, for the pending record.
pub trait KeyValue: Debug + Send + Sync {
    /// Reads the value that was last given to [`put`](Self::put); `None` if there is none.
    ///
    /// # Errors
    /// The value cannot be read. See [`Store::load`] and [`Store::recall`].
    fn get(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError>;

    /// Replaces the value of `key`. Returns `Ok` only once the new value is durable. The value is secret, since it
    /// contains a private key.
    ///
    /// # Errors
    /// The new value is not durable; the old one still is.
    fn put(&self, key: &'static str, value: &[u8]) -> Result<(), StoreError>;

    /// True if all calls return at once: see [`Store::is_instant`]. False by default.
    fn is_instant(&self) -> bool {
        false
    }
}

impl<T: KeyValue> Store for T {
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        let mut held = Vec::new();
        for key in [CURRENT, WAITING] {
            if let Some(pem) = self.get(key)? {
                held.push(read_pair(key, &pem, request)?);
            }
        }
        Ok(Stored::best_of(held, request))
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, _now: UnixTime) -> Result<(), StoreError> {
        self.put(if serve { CURRENT } else { WAITING }, credential.to_pem().as_bytes())
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.get("record")
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        self.put("record", record)
    }

    fn is_instant(&self) -> bool {
        KeyValue::is_instant(self)
    }
}

/// Reads the pair with this key in a store of values.
fn read_pair(key: &str, pem: &[u8], request: &LoadRequest<'_>) -> Result<Arc<Credential>, String> {
    request.read_pair(pem).map(Arc::new).map_err(|error| unusable(key, &error))
}

/// Returns the error text for a pair of a [`KeyValue`] that cannot be used.
fn unusable(key: &str, error: &CredentialError) -> String {
    let remedy = match error {
        // The pair is whole: removing it would lose the certificate of a key whose device is absent.
        CredentialError::Key(KeyError::External { .. } | KeyError::Elsewhere { .. }) => {
            "set the key source that made the key, and check its device"
        }
        _ => "remove it",
    };
    format!("the pair `{key}` of the store is unusable: {error}; {remedy}")
}

/// A store in memory, lost when the process ends: the default of [`Rotator`](crate::Rotator). Clones share their
/// contents.
#[derive(Clone, derive_more::Debug, Default)]
#[debug("Memory")]
pub struct Memory(Arc<Mutex<Contents>>);

/// The contents of a store in memory. The pairs are the credentials that the rotation has, too, and take no memory of
/// their own.
#[derive(Default)]
struct Contents {
    current: Option<Arc<Credential>>,
    waiting: Option<Arc<Credential>>,
    record: Option<Zeroizing<Box<[u8]>>>,
}

impl Memory {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn load(&self, request: &LoadRequest<'_>) -> Result<Stored, StoreError> {
        let contents = self.contents();
        let pairs = [(CURRENT, contents.current.clone()), (WAITING, contents.waiting.clone())];
        drop(contents);
        // From the text, as in any other store: a key that stays elsewhere is found anew.
        let read = |(key, pair): (_, Option<Arc<Credential>>)| Some(read_pair(key, pair?.to_pem().as_bytes(), request));
        Ok(Stored::best_of(pairs.into_iter().filter_map(read).collect::<Result<_, _>>()?, request))
    }

    fn write(&self, credential: &Arc<Credential>, serve: bool, _now: UnixTime) -> Result<(), StoreError> {
        let mut contents = self.contents();
        let place = if serve { &mut contents.current } else { &mut contents.waiting };
        *place = Some(credential.clone());
        Ok(())
    }

    fn recall(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(self.contents().record.as_ref().map(|record| Zeroizing::new(record.to_vec())))
    }

    fn remember(&self, record: &[u8]) -> Result<(), StoreError> {
        self.contents().record = Some(Zeroizing::new(record.into()));
        Ok(())
    }

    fn is_instant(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perennial::Template;
    use perennial_pki::interim;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn credential(common_name: &str, at: UnixTime) -> Arc<Credential> {
        Arc::new(interim(&Template::new(common_name), at).unwrap())
    }

    fn load(store: &dyn Store, common_name: Option<&str>) -> [Option<Arc<str>>; 2] {
        let stored = store
            .load(&LoadRequest { common_name, has_signer: true, now: NOW, keys: None, request_digest: None })
            .unwrap();
        let name = |held: Arc<Credential>| {
            let facts = facts(&held);
            let begins = facts.validity.not_before() > NOW;
            format!("{}{}", facts.common_name(), if begins { " later" } else { "" }).into()
        };
        [stored.credential.map(name), stored.waiting.map(name)]
    }

    #[test]
    fn memory_store_returns_waiting_pair_until_it_is_served() {
        let memory = Memory::default();
        assert_eq!(load(&memory, Some("a")), [None, None]);
        let (held, next) = (credential("a", NOW), credential("a", NOW.after(DAY)));
        memory.write(&held, true, NOW).unwrap();
        memory.write(&next, false, NOW).unwrap();
        assert_eq!(load(&memory, Some("a")), [Some("a".into()), Some("a later".into())]);
        memory.write(&next, true, NOW).unwrap();
        assert_eq!(load(&memory.clone(), Some("a")), [Some("a later".into()), None]);
    }

    #[test]
    fn best_of_prefers_wanted_name_then_valid_certificates() {
        let wanted =
            LoadRequest { common_name: Some("a"), has_signer: true, now: NOW, keys: None, request_digest: None };
        let [expired, valid, other] =
            [credential("a", NOW.before(30 * DAY)), credential("a", NOW), credential("b", NOW)];
        let best =
            |all: &[&Arc<Credential>]| Stored::best_of(all.iter().copied().cloned().collect(), &wanted).credential;
        let is = |found: Option<Arc<Credential>>, wanted: &Arc<Credential>| Arc::ptr_eq(&found.unwrap(), wanted);
        assert!(is(best(&[&other, &expired, &valid]), &valid));
        assert!(is(best(&[&other, &expired]), &expired));
        assert!(is(best(&[&other]), &other), "reported by the rotation");
        assert!(best(&[]).is_none());
    }
}
