//! The running rotations by the names of their members, and the identities that members give each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use perennial_rotation::{Handle, Identity, IdentitySource, NotYet};

/// The handles of all running members. Clones share the handles.
#[derive(Clone, Default)]
pub(super) struct Handles(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    handles: BTreeMap<String, Handle>,
    /// Wakers of rotations that wait for a member without a handle.
    waiting: Vec<Waker>,
}

impl Handles {
    /// Sets the rotation of member `name`. Wakes the rotations that wait for a member.
    pub(super) fn set(&self, name: &str, handle: Handle) {
        let mut known = self.known();
        known.handles.insert(name.to_owned(), handle);
        let waiting = std::mem::take(&mut known.waiting);
        drop(known);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Forgets the rotation of member `name`, which ends. Rotations that depend on the member wait for its next one.
    pub(super) fn remove(&self, name: &str) {
        self.known().handles.remove(name);
    }

    fn get(&self, name: &str) -> Option<Handle> {
        self.known().handles.get(name).cloned()
    }

    fn wake_on_change(&self, name: &str, waker: &Waker) {
        let mut known = self.known();
        match known.handles.get(name).cloned() {
            Some(handle) => {
                drop(known);
                handle.wake_on_change(waker);
            }
            None if known.waiting.iter().any(|waiting| waiting.will_wake(waker)) => {}
            None => known.waiting.push(waker.clone()),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waiting_for(name: &str) -> NotYet {
    NotYet::coming(format!("waiting for the certificate {name}"))
}

/// The certificate of a member as the identity of another member's requests. Finds the rotation by name at each call,
/// because a reload may have replaced the rotation.
pub(super) struct CertificateOf {
    pub(super) name: String,
    pub(super) handles: Handles,
}

impl IdentitySource for CertificateOf {
    fn identity(&self) -> Result<Identity, NotYet> {
        let held = self.handles.get(&self.name).and_then(|handle| handle.credential());
        held.map(Identity::Certificate).ok_or_else(|| waiting_for(&self.name))
    }

    fn wake_on_change(&self, waker: &Waker) {
        self.handles.wake_on_change(&self.name, waker);
    }

    fn identity_refused(&self, identity: &Identity) {
        self.handles.get(&self.name).iter().for_each(|handle| handle.identity_refused(identity));
    }
}

/// An identity source that waits until other members hold a valid certificate (`after`). Once all of them did, or if
/// the member had a certificate at its start, it waits no more.
pub(super) struct After {
    pub(super) others: Vec<String>,
    pub(super) handles: Handles,
    pub(super) passed: AtomicBool,
    pub(super) then: Arc<dyn IdentitySource>,
}

impl After {
    /// The first of the other members that has no valid certificate; `None` if there is nothing to wait for.
    fn missing(&self) -> Option<&str> {
        if self.passed.load(Ordering::SeqCst) {
            return None;
        }
        let lacks = |name: &&String| self.handles.get(name).is_none_or(|handle| handle.credential().is_none());
        let missing = self.others.iter().find(lacks);
        self.passed.store(missing.is_none(), Ordering::SeqCst);
        missing.map(String::as_str)
    }
}

impl IdentitySource for After {
    fn identity(&self) -> Result<Identity, NotYet> {
        match self.missing() {
            Some(name) => Err(waiting_for(name)),
            None => self.then.identity(),
        }
    }

    fn wake_on_change(&self, waker: &Waker) {
        if !self.passed.load(Ordering::SeqCst) {
            self.others.iter().for_each(|name| self.handles.wake_on_change(name, waker));
        }
        self.then.wake_on_change(waker);
    }

    fn identity_refused(&self, identity: &Identity) {
        self.then.identity_refused(identity);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use perennial::Template;
    use perennial_pki::interim;
    use perennial_rotation::{Memory, Rotator, Store as _, Task, Token, clock};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A rotation without a signer, which holds a certificate if `held` is true.
    fn rotation(held: bool) -> (Handle, Task) {
        let store = Memory::default();
        if held {
            let now = clock::now().unix;
            store.write(&Arc::new(interim(&Template::node("worker"), now).unwrap()), true, now).unwrap();
        }
        Rotator::new().store(store).prepare().unwrap()
    }

    #[test]
    fn identity_of_member_waits_until_member_starts() {
        let handles = Handles::default();
        let source = CertificateOf { name: "node".into(), handles: handles.clone() };
        assert!(source.identity().is_err_and(|why| why.is_coming() && why.to_string().contains("node")));
        let count = Arc::new(Count::default());
        source.wake_on_change(&count.clone().into());
        let (handle, _task) = rotation(true);
        handles.set("node", handle);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(matches!(source.identity(), Ok(Identity::Certificate(_))));
        handles.remove("node");
        assert!(source.identity().is_err_and(|why| why.is_coming()));
    }

    #[test]
    fn request_waits_for_all_members_before_it_once() {
        let handles = Handles::default();
        let then = Arc::new(Token::new("abcdef.0123456789abcdef").unwrap());
        let others = vec!["one".to_owned(), "two".to_owned()];
        let after = After { others, handles: handles.clone(), passed: false.into(), then };
        let waits_for =
            |name: &str| after.identity().is_err_and(|why| why.is_coming() && why.to_string().contains(name));
        let ((one, _one), (two, _two)) = (rotation(true), rotation(false));
        handles.set("two", two);
        assert!(waits_for("one"));
        handles.set("one", one);
        assert!(waits_for("two"));
        let (two, _task) = rotation(true);
        handles.set("two", two);
        assert!(after.identity().is_ok());
        handles.remove("one");
        assert!(after.identity().is_ok());
    }
}
