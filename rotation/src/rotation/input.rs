//! [`Input`]: what a runtime reports to a rotation, and its translation into events of the machine.

use std::collections::VecDeque;
use std::sync::Arc;

use perennial::{Event, Fingerprint, Now, Policy, RequestId, State, Template};
use perennial_pki::Credential;

use super::shortfall::too_short;
use super::start::{foreign_to, share_names};
use super::{Command, News, Rotation};
use crate::{Health, Issued, Keyed, Progress, ServerDate, SignError, Signer};

/// A fact that the runtime reports to [`Rotation::handle`].
#[derive(Debug)]
pub enum Input {
    /// Time has passed: report this at [`Rotation::deadline`].
    Tick,
    /// The turn of this member of a fleet has come: see [`Start::is_shared`](super::Start::is_shared). A rotation for
    /// which no request is due handles this as a [`Tick`](Self::Tick).
    TurnGranted,
    /// The names to request from now on; `None`: the rotation requests nothing.
    TemplateChanged(Option<Arc<Template>>),
    /// The timing from now on. See [`Event::PolicyChanged`].
    PolicyChanged(Arc<Policy>),
    /// Another signer to request certificates from. `None` disables the rotation: it submits no request any more, and
    /// only writes a certificate that it has accepted but not made durable yet. The current certificate and its
    /// rotation point stay.
    ///
    /// A signer with the name and the endpoint of the last request continues that request, with its key. For
    /// any other signer, the request in flight is dropped, failures are forgotten, and the next request has a new key.
    SignerChanged(Option<Arc<dyn Signer>>),
    /// The identity that a request waits for may be available: see
    /// [`IdentitySource::wake_on_change`](crate::IdentitySource::wake_on_change).
    IdentityChanged,
    /// The program or an operator demands a new certificate now, whether or not one is due.
    RotateNow,
    /// A server rejected this certificate (HTTP 401, a TLS alert).
    Refused {
        /// The fingerprint of the rejected certificate.
        fingerprint: Fingerprint,
    },
    /// The program sent an HTTP request of its own, outside of an exchange, to the signer's server, and the answer had
    /// a `Date`.
    ServerDated(ServerDate),
    /// A call of the key source ([`Command::Key`]) ended.
    Keyed {
        /// The id of the [`Command::Key`].
        id: RequestId,
        /// The key and the CSR of the request, or the error.
        keyed: Keyed,
    },
    /// An exchange made progress.
    Progressed {
        /// The request of the exchange.
        id: RequestId,
        /// The progress of the request.
        progress: Progress,
        /// Health of the signer's server by its last answer.
        health: Option<Health>,
    },
    /// An exchange ended.
    Finished {
        /// The request of the exchange.
        id: RequestId,
        /// The issued chain, or the error.
        result: Result<Issued, SignError>,
    },
    /// An attempt to write a credential ([`Command::Write`]) ended.
    Written {
        /// The id of the [`Command::Write`].
        id: RequestId,
        /// The error, as text for people.
        result: Result<(), String>,
    },
    /// An attempt to save a record ([`Command::Save`]) ended.
    Saved {
        /// The error, as text for people.
        result: Result<(), String>,
    },
    /// Another program changed the store. The credential is the one in the store now; `None`: there is none.
    Replaced(Option<Arc<Credential>>),
}

impl Rotation {
    /// Translates an input into events of the machine. Puts a pair that the machine may accept into `candidate`, and
    /// the commands that follow from a changed signer into `commands`.
    pub(super) fn translate(
        &mut self,
        input: Input,
        candidate: &mut Option<Arc<Credential>>,
        commands: &mut Vec<Command>,
        now: Now,
    ) -> VecDeque<Event> {
        let event = match input {
            Input::Tick => Event::Tick,
            Input::TurnGranted => Event::TurnGranted,
            Input::TemplateChanged(template) => {
                // The current certificate stays in use until one for the new name is issued.
                let wanted = template.as_deref().and_then(Template::wanted_common_name);
                self.note_foreign(foreign_to(wanted, self.served.as_deref()).map(Arc::from));
                Event::TemplateChanged(template)
            }
            Input::PolicyChanged(policy) => {
                // Counts the whole lifetime, as at issuance: the rest of it does not show how long the next
                // certificate lives.
                let held = self.served.as_ref().filter(|_| self.issued > 0);
                let held = held.map(|held| held.chain().certificate().validity);
                let why = held.and_then(|validity| too_short(&policy, validity, validity.not_before()));
                self.short_lived = why.map(Arc::from);
                if policy.budget != self.machine.policy().budget {
                    // Another budget changes the meaning of `budget_whole` in the record.
                    self.saving.given = None;
                }
                Event::PolicyChanged(policy)
            }
            Input::SignerChanged(signer) => return self.signer_changed(signer, commands, now),
            Input::IdentityChanged => {
                let Some(awaited) = &mut self.awaited else { return VecDeque::new() };
                awaited.poll_at = now.instant;
                Event::Tick
            }
            Input::RotateNow => Event::RotateNow,
            Input::Refused { fingerprint } => {
                // Treated like a rejection by the API server that requests go to: the next request authenticates with
                // the bootstrap credential, if there is one.
                let held = self.served.as_ref().map(|own| own.chain().certificate().fingerprint);
                if held == Some(fingerprint) {
                    self.refused = Some(Box::new(fingerprint));
                }
                Event::CertRefused { fingerprint }
            }
            Input::Keyed { id, keyed } => return self.keyed(id, keyed, commands, now).into_iter().collect(),
            Input::Progressed { id, progress, health } => {
                self.health = health.or(self.health);
                if let Some(in_flight) = self.in_flight.as_mut().filter(|in_flight| in_flight.id == id) {
                    let is_news = in_flight.progress.as_ref() != Some(&progress);
                    self.news.extend(is_news.then(|| News::Progressed(progress.clone())));
                    in_flight.progress = Some(progress);
                }
                return self.server_dated(health.and_then(|health| health.date), now).into_iter().collect();
            }
            Input::ServerDated(date) => return self.server_dated(Some(date), now).into_iter().collect(),
            Input::Finished { id, result } => {
                // The result of a superseded request is ignored.
                let Some(in_flight) = self.in_flight.take_if(|in_flight| in_flight.id == id) else {
                    return VecDeque::new();
                };
                let health = result.as_ref().map_or_else(|error| error.health, |issued| issued.health);
                self.health = health.or(self.health);
                // First the server's clock: the machine judges the issued certificate by that, too.
                let date = health.and_then(|health| health.date);
                let mut events: VecDeque<_> = self.server_dated(date, now).into_iter().collect();
                events.extend(self.finished(*in_flight, result, candidate, now));
                return events;
            }
            Input::Written { id, result: Ok(()) } => {
                // The credential is durable: its key is not pending any more.
                // An older write proves nothing about the credential that is owed now.
                let is_owed = self.machine.writes().is_some_and(|(owed, _)| owed == id);
                let written = self.unwritten().filter(|_| is_owed).map(|(pair, serve)| (pair.key().clone(), serve));
                if let Some((key, serve)) = written {
                    self.pending.take_if(|pending| Arc::ptr_eq(&key, pending));
                    self.request_name = Box::default();
                    if let Some(keys) = self.keys.as_mut().filter(|_| serve) {
                        keys.stored = vec![key];
                    }
                }
                self.foreign = None;
                Event::CertWritten { id }
            }
            Input::Written { id, result: Err(why) } => {
                self.note_unwritten(why);
                Event::WriteFailed { id }
            }
            Input::Saved { result } => {
                let before = self.saving.error().cloned();
                self.saving.saved(result, self.machine.policy(), self.seed(), now.instant);
                let error = self.saving.error().filter(|error| before.as_ref() != Some(error));
                self.news.extend(error.map(|error| News::Unsaved { error: error.clone() }));
                return VecDeque::new();
            }
            Input::Replaced(found) => {
                let mut found = self.not_foreign(found);
                if let (Some(pair), Some(template)) = (&mut found, self.machine.template()) {
                    share_names(pair, template);
                }
                candidate.clone_from(&found);
                found.iter().for_each(|pair| self.note_stored(pair));
                Event::CertReplaced(found.map(|credential| credential.chain().certificate().clone()))
            }
        };
        VecDeque::from([event])
    }

    /// Makes the event for a reading of the signer's clock, if the reading is newer than the last one.
    fn server_dated(&mut self, date: Option<ServerDate>, now: Now) -> Option<Event> {
        let ServerDate { unix, at } = date?;
        // An event would time out a request whose deadline has passed, before the answer at hand is handled.
        let is_late = matches!(self.machine.state(), State::Requesting { until, .. } if until <= now.instant);
        if is_late || self.server_read_at.is_some_and(|last| at <= last) {
            return None;
        }
        self.server_read_at = Some(at);
        // The machine expects the server's time at `now`; the reading is older.
        Some(Event::ServerDated { unix: unix.after(now.instant.since(at)) })
    }

    /// Records an error if the stored credential `found` is foreign. Returns `None` for a foreign credential if there
    /// is no template. Otherwise returns `found`: with a template, the machine itself rejects a foreign certificate.
    fn not_foreign(&mut self, found: Option<Arc<Credential>>) -> Option<Arc<Credential>> {
        let template = self.machine.template();
        let wanted = template.map_or(self.common_name.as_deref(), |template| template.wanted_common_name());
        let held = |found: &&Arc<Credential>| self.machine.certificate() != Some(found.chain().certificate());
        let foreign = foreign_to(wanted, found.as_ref().filter(held).map(Arc::as_ref)).map(Arc::from);
        let has_template = template.is_some();
        self.note_foreign(foreign);
        found.filter(|_| self.foreign.is_none() || has_template)
    }
}
