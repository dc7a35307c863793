//! Requests whose keys stay elsewhere, or take long to generate: key and CSR are made off the loop, before the exchange
//! begins.

use std::sync::Arc;

use perennial::{Event, Now, RequestId, Template};
use perennial_pki::{Credential, KeyPair};

use super::request::local;
use super::{Command, Rotation};
use crate::key_source::Unkeyed;
use crate::{KeyCall, KeySource, Keyed, SignError};

/// The keys of a rotation whose keys stay elsewhere.
#[derive(Debug)]
pub(super) struct KeysElsewhere {
    pub(super) source: Arc<dyn KeySource>,
    /// The keys of all certificates that the store may contain.
    pub(super) stored: Vec<Arc<KeyPair>>,
}

impl Rotation {
    /// Returns the call of the key source for a request. With a pending key, the call signs the CSR with this key;
    /// without one, it makes a key first. Without a key source, the call generates the key in memory.
    ///
    /// # Errors
    /// There is no signer.
    pub(super) fn call_of(
        &mut self,
        source: Option<Arc<dyn KeySource>>,
        id: RequestId,
        template: &Arc<Template>,
    ) -> Result<KeyCall, SignError> {
        let signer = self.address()?;
        let algorithm = self.key_algorithm(&*signer);
        if let Some(Ok((_, own))) = self.found_identity.as_deref() {
            // The identity is read again once there is a CSR; until then, observers see this one.
            self.bootstrapping = own.is_none() && self.has_bootstrap();
        }
        let held = [&self.served, &self.waiting].into_iter().flatten().map(|pair| pair.key());
        let stored = self.keys.iter().flat_map(|keys| &keys.stored);
        let in_use = held.chain(stored).cloned().collect();
        // An exchange of this request with an earlier signer has been dropped.
        self.in_flight = None;
        self.keying = Some((id, template.clone()));
        Ok(KeyCall { source, algorithm, pending: self.pending.clone(), in_use, template: template.clone() })
    }

    /// Handles the result of a call of the key source: begins the exchange, or returns the event of the failure. The
    /// result for a request that was cancelled is ignored.
    pub(super) fn keyed(
        &mut self,
        id: RequestId,
        keyed: Keyed,
        commands: &mut Vec<Command>,
        now: Now,
    ) -> Option<Event> {
        let (_, template) = self.keying.take_if(|(keying, _)| *keying == id)?;
        match keyed.0 {
            Ok((key, csr)) => {
                let wanted = self.signer.as_ref().map(|signer| self.key_algorithm(&**signer));
                if !wanted.is_some_and(|wanted| wanted.admits(key.algorithm())) {
                    self.pending = None;
                    return Some(self.failed(id, local("the signer wants a key of another kind than the one made")));
                }
                self.pending = Some(key.clone());
                self.drive(id, &template, Ok((key, csr)), commands, now)
            }
            Err(Unkeyed { key, error }) => {
                self.pending = key;
                Some(self.failed(id, local(error)))
            }
        }
    }

    /// Notes that the store may contain this pair. Its key then counts as in use until a newer pair has replaced the
    /// pair in the store.
    pub(super) fn note_stored(&mut self, pair: &Credential) {
        let Some(keys) = &mut self.keys else { return };
        if !keys.stored.iter().any(|key| Arc::ptr_eq(key, pair.key())) {
            keys.stored.push(pair.key().clone());
        }
    }
}
