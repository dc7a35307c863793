//! What a runtime reports, and what the machine is told of it.

use std::collections::VecDeque;
use std::sync::Arc;

use perennial::{Event, Fingerprint, Now, Policy, RequestId, State, Template};
use perennial_pki::Credential;

use super::shortfall::too_short;
use super::start::foreign_to;
use super::{Command, News, Rotation};
use crate::{Health, Issued, Progress, ServerDate, SignError, Signer};

/// Something that happened, in a runtime's terms.
#[derive(Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Another identity is wanted; `None`: none for now.
    TemplateChanged(Option<Arc<Template>>),
    /// The numbers to go by are now these. See [`Event::PolicyChanged`].
    PolicyChanged(Arc<Policy>),
    /// Certificates are requested from this signer from now on; `None`: rotation is not enabled, what is accepted already
    /// is still written. The certificate and its rotation point stay, whoever signs.
    ///
    /// A signer with the name and the endpoint of the last request continues that request, with the key in flight. For
    /// another one, the request in flight is dropped, failures are forgotten, and the next request has a new key.
    SignerChanged(Option<Arc<dyn Signer>>),
    /// The identity that a request waits for may have come: see
    /// [`IdentitySource::wake_on_change`](crate::IdentitySource::wake_on_change).
    IdentityChanged,
    /// Somebody asked for a new certificate.
    RotateNow,
    /// A server this certificate is meant for did not accept it (HTTP 401, a TLS alert).
    Refused {
        /// The certificate that was shown.
        fingerprint: Fingerprint,
    },
    /// An answer of the signer's server to something else than a request for a certificate showed the server's clock.
    ServerDated(ServerDate),
    /// An exchange moved on.
    Progressed {
        /// Of this request.
        id: RequestId,
        /// To here.
        progress: Progress,
        /// Health of the server by its last answer.
        health: Option<Health>,
    },
    /// An exchange ended.
    Finished {
        /// Of this request.
        id: RequestId,
        /// How.
        result: Result<Issued, SignError>,
    },
    /// An attempt to write the credential ended.
    Written {
        /// As in the command.
        id: RequestId,
        /// The error, as text for people.
        result: Result<(), String>,
    },
    /// An attempt to save a record ended.
    Saved {
        /// The error, as text for people.
        result: Result<(), String>,
    },
    /// The store was found to hold something else.
    Replaced(Option<Arc<Credential>>),
}

impl Rotation {
    /// From a runtime's terms to the machine's. A pair that may come to be served goes to `candidate`.
    pub(super) fn translate(
        &mut self,
        input: Input,
        candidate: &mut Option<Arc<Credential>>,
        commands: &mut Vec<Command>,
        now: Now,
    ) -> VecDeque<Event> {
        let event = match input {
            Input::Tick => Event::Tick,
            Input::TemplateChanged(template) => {
                // The certificate held stays in use until the new name has one.
                let wanted = template.as_deref().map(Template::common_name);
                self.note_foreign(foreign_to(wanted, self.served.as_deref()).map(Arc::from));
                Event::TemplateChanged(template)
            }
            Input::PolicyChanged(policy) => {
                self.policy.clone_from(&policy);
                self.saving.set_policy(&policy);
                // As when the certificate was issued: by its whole lifetime.
                let held = self.served.as_ref().filter(|_| self.issued > 0);
                let held = held.map(|held| held.chain().certificate().validity);
                let why = held.and_then(|validity| too_short(&policy, validity, validity.not_before()));
                self.short_lived = why.map(Arc::from);
                Event::PolicyChanged(policy)
            }
            Input::SignerChanged(signer) => return self.signer_changed(signer, commands, now),
            Input::IdentityChanged => {
                let Some(awaited) = &mut self.awaited else { return VecDeque::new() };
                awaited.ask_now(now);
                Event::Tick
            }
            Input::RotateNow => Event::RotateNow,
            Input::Refused { fingerprint } => {
                // As if we had been turned down ourselves: the bootstrap identity is next.
                let held = self.served.as_ref().map(|own| own.chain().certificate().fingerprint);
                self.refused = held.filter(|held| *held == fingerprint).or(self.refused);
                Event::CertRefused { fingerprint }
            }
            Input::Progressed { id, progress, health } => {
                self.health = health.or(self.health);
                if let Some(asking) = self.asking.as_mut().filter(|asking| asking.id == id) {
                    let is_news = asking.progress.as_ref() != Some(&progress);
                    self.news.extend(is_news.then(|| News::Progressed(progress.clone())));
                    asking.progress = Some(progress);
                }
                return self.server_dated(health.and_then(|health| health.date), now).into_iter().collect();
            }
            Input::ServerDated(date) => return self.server_dated(Some(date), now).into_iter().collect(),
            Input::Finished { id, result } => {
                let Some(asking) = self.asking.take_if(|asking| asking.id == id) else { return VecDeque::new() };
                let health = result.as_ref().map_or_else(|error| error.health, |issued| issued.health);
                self.health = health.or(self.health);
                // What was issued is judged by the clock that its answer showed, too.
                let date = health.and_then(|health| health.date);
                let mut events: VecDeque<_> = self.server_dated(date, now).into_iter().collect();
                events.extend(self.finished(asking, result, candidate, now));
                return events;
            }
            Input::Written { id, result: Ok(()) } => {
                // Durable: its key is pending no more.
                let is_owed = self.machine.writes().is_some_and(|(owed, _)| owed == id);
                let written = self.unwritten().filter(|_| is_owed).map(|(credential, _)| credential.key().clone());
                self.pending.take_if(|pending| written.is_some_and(|key| Arc::ptr_eq(&key, pending)));
                self.foreign = None;
                Event::CertWritten { id }
            }
            Input::Written { id, result: Err(why) } => {
                self.note_unwritten(why);
                Event::WriteFailed { id }
            }
            Input::Saved { result } => {
                let before = self.saving.error.clone();
                self.saving.saved(result, now.instant);
                let error = self.saving.error.as_ref().filter(|error| before.as_ref() != Some(error));
                self.news.extend(error.map(|error| News::Unsaved { error: error.clone() }));
                return VecDeque::new();
            }
            Input::Replaced(found) => {
                let found = self.not_foreign(found);
                candidate.clone_from(&found);
                Event::CertReplaced(found.map(|credential| credential.chain().certificate().clone()))
            }
        };
        VecDeque::from([event])
    }

    /// The newest reading of the signer's clock, if not reported yet.
    fn server_dated(&mut self, date: Option<ServerDate>, now: Now) -> Option<Event> {
        let ServerDate { unix, at } = date?;
        // An answer that comes with its request's timeout is still taken: the machine must not look at the clocks before.
        let is_late = matches!(self.machine.state(), State::Requesting { until, .. } if until <= now.instant);
        if is_late || self.server_read_at.is_some_and(|last| at <= last) {
            return None;
        }
        self.server_read_at = Some(at);
        Some(Event::ServerDated { unix: unix.after(now.instant.since(at)) })
    }

    /// Records an error if the stored credential names another party. The machine judges names by its template only, and
    /// may have none.
    fn not_foreign(&mut self, found: Option<Arc<Credential>>) -> Option<Arc<Credential>> {
        let template = self.machine.template().map(|template| template.common_name());
        let wanted = template.or(self.common_name.as_deref());
        let held = |found: &&Arc<Credential>| self.machine.certificate() != Some(found.chain().certificate());
        let foreign = foreign_to(wanted, found.as_ref().filter(held).map(Arc::as_ref)).map(Arc::from);
        let has_template = template.is_some();
        self.note_foreign(foreign);
        found.filter(|_| self.foreign.is_none() || has_template)
    }
}
