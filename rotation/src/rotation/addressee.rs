//! A change of the signer while the rotation runs: continues the last request, or drops it.

use std::collections::VecDeque;
use std::sync::Arc;

use perennial::{Event, Key, Now, SignerStatus};

use super::record::is_another;
use super::request::InFlight;
use super::start::ready;
use super::{Command, Record, Rotation};
use crate::signer::Signer;

/// The signer that a request was submitted to.
#[derive(Debug)]
pub(super) enum Addressee {
    /// The current signer of the rotation.
    Current,
    /// An earlier signer, which was removed since, or the signer that a record names.
    Former(Box<Address>),
}

/// Name and endpoint of a signer, and what it is asked for. Two signers that agree in these count as one.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) name: String,
    /// The signer's endpoint. `None` if the signer has no endpoint, or if an old version wrote the record, without the
    /// endpoint.
    pub(super) endpoint: Option<String>,
    /// The signer's [`request_digest`](Signer::request_digest); `None` also if the record has none.
    pub(super) request_digest: Option<String>,
}

impl Address {
    pub(super) fn of(signer: &dyn Signer) -> Self {
        Self { name: signer.name().to_owned(), endpoint: signer.endpoint(), request_digest: signer.request_digest() }
    }

    pub(super) fn of_record(record: &Record) -> Self {
        let Record { signer_name, server, request_digest, .. } = record;
        Self { name: signer_name.clone(), endpoint: server.clone(), request_digest: request_digest.clone() }
    }

    /// True if `signer` is asked for another certificate.
    fn is_another(&self, signer: &dyn Signer) -> bool {
        is_another(self.request_digest.as_deref(), signer.request_digest().as_deref())
    }

    /// True if the request was submitted to `signer`. A signer with another URL counts as another signer, even if both
    /// URLs lead to the same server: the cost is one more request object.
    pub(super) fn is(&self, signer: &dyn Signer) -> bool {
        self.name == signer.name()
            && (self.endpoint.is_none() || self.endpoint == signer.endpoint())
            && !self.is_another(signer)
    }
}

impl Rotation {
    /// The address of the last request's signer; `None` before the first request to the current signer.
    pub(super) fn last_address(&self) -> Option<Address> {
        match self.addressee.as_ref()? {
            Addressee::Current => self.signer.as_deref().map(Address::of),
            Addressee::Former(address) => Some(Address::clone(address)),
        }
    }

    /// Handles [`Input::SignerChanged`](super::Input::SignerChanged): continues or forgets the last request, and
    /// returns the events for the machine.
    pub(super) fn signer_changed(
        &mut self,
        signer: Option<Arc<dyn Signer>>,
        commands: &mut Vec<Command>,
        now: Now,
    ) -> VecDeque<Event> {
        let last = self.last_address();
        let before = self.signer.as_ref().map_or_else(|| last.clone(), |before| Some(Address::of(&**before)));
        let wanted = |signer: &Option<Arc<dyn Signer>>| signer.as_ref().map(|signer| signer.profile().key_algorithm);
        if wanted(&self.signer) != wanted(&signer) {
            // It took the place of a kind that is not wanted any more.
            self.other_key = None;
        }
        self.signer = signer;
        self.awaited = None;
        let Some(signer) = self.signer.as_deref() else {
            self.addressee = last.map(|last| Addressee::Former(Box::new(last)));
            self.saving.give_up();
            return [Event::SignerChanged(SignerStatus::Absent)].into();
        };
        let is_another = before.is_some_and(|before| before.is_another(signer));
        if is_another {
            self.outdated = self.served.as_ref().map(|served| Box::new(served.chain().certificate().fingerprint));
        }
        // The machine learns of a replaced signer as an absence and a return: it withdraws the request in flight and
        // forgets failures.
        let ready = ready(self.is_shared);
        let replaced = [SignerStatus::Absent, ready].map(Event::SignerChanged);
        let fits = self.pending.as_ref().is_none_or(|key| self.key_algorithm(signer).admits(key.algorithm()));
        if !fits || is_another || last.as_ref().is_some_and(|last| !last.is(signer)) {
            // The key of a certificate that is not durable stays: a restart finds the certificate by its key.
            if !self.is_issued_unwritten() {
                self.pending = None;
            }
            self.addressee = None;
            self.saving.give_up();
            (self.refused, self.other_key, self.bootstrapping) = (None, None, false);
            (self.health, self.server_read_at, self.clock_offset) = (None, None, None);
            // The new signer has another clock. A reading of our own clock disagrees with the readings so far, so that
            // the machine discards them.
            let other_clock = self.machine.server_time(now).map(|_| Event::ServerDated { unix: now.unix });
            let [absent, returned] = replaced;
            let replace = (is_another && self.served.is_some()).then_some(Event::RotateNow);
            return [absent].into_iter().chain(other_clock).chain([returned]).chain(replace).collect();
        }
        self.addressee = last.map(|_| Addressee::Current);
        if let Some(InFlight { id, template, .. }) = self.in_flight.as_deref() {
            // Same signer and endpoint: the request continues, with the new signer's connection and identity.
            let (id, template) = (*id, template.clone());
            commands.push(Command::Drop { id });
            let failed = self.submit(id, &template, Key::Pending, commands, now);
            // The previous signer may have waited for an identity. If the new one waits, too, `must_await` finds that
            // out at once.
            return failed.into_iter().chain([Event::SignerChanged(ready)]).collect();
        }
        // Other failures may be due to the old connection or identity: retry at once. A refusal is a decision of the
        // signer and stands.
        let has_failed = self.machine.last_failure().is_some_and(|last| !last.is_refusal());
        if has_failed { replaced.into() } else { [Event::SignerChanged(ready)].into() }
    }
}
