//! The reaction of a submission to each answer, watch event and connection error.

use perennial::Now;
use perennial_rotation::{Issued, SignError, SignerConversation as _};

use super::{CREATE_ATTEMPTS, Issuance, Purpose, Stage};
use crate::client::exchange_error::ExchangeError;
use crate::client::response::{ErrorAnswer, Response};
use crate::client::verdict::{Judged, Refusal, Verdict};
use crate::client::watch::{List, WatchEvent, decode, name_of, unreadable};

impl Issuance {
    /// Handles the answer to creating the object.
    pub(super) fn created(&mut self, response: &Response, now: Now) {
        match response.status {
            // The object may be this request, submitted before a crash, or by a POST whose answer was lost: `judge`
            // compares.
            409 => (self.found, self.stage) = (true, Stage::Next(self.reading())),
            200..=299 => self.settle_or_lose(Purpose::Create, response, now),
            // Go's own 404: the API server does not serve the version of the group, or this is another server written in
            // Go. The versions of the group show which.
            404 if ErrorAnswer::is_no_path(response) && !self.session.exhausted() => {
                self.absent = Some((response.clone(), self.session.health()));
                self.stage = Stage::Next(Purpose::Group);
            }
            _ => self.fail(self.error_context().refused(response)),
        }
    }

    /// Handles the answer to reading the object.
    pub(super) fn read(&mut self, response: &Response, now: Now) {
        match response.status {
            200 => self.settle_or_lose(Purpose::Read, response, now),
            404 => self.fail(self.error_context().gone(response)),
            status if temporary(status) => self.try_later(Purpose::Read, response, now),
            _ => self.fail(self.error_context().refused(response)),
        }
    }

    /// Handles the answer to listing the object.
    pub(super) fn listed(&mut self, response: &Response, now: Now) {
        match response.status {
            200 => match self.judge_listed(&response.body, now) {
                Ok(Some((version, judged))) => {
                    self.cursor.listed(version, &judged.metadata.resource_version);
                    self.settle(judged, now);
                }
                Ok(None) => self.vanished("it is gone: the server lists no object of this name"),
                Err(_) => (self.lists, self.stage) = (false, Stage::Next(Purpose::Read)),
            },
            401 => self.fail(self.error_context().refused(response)),
            status if temporary(status) => self.try_later(Purpose::List, response, now),
            // The object may still be readable where a role lacks the verb list.
            _ => (self.lists, self.stage) = (false, Stage::Next(Purpose::Read)),
        }
    }

    /// Judges the object in a list. Also returns the version of the list. `None` if the list lacks the object.
    fn judge_listed(&self, list: &[u8], now: Now) -> serde_json::Result<Option<(String, Judged)>> {
        let list: List<'_> = serde_json::from_slice(list)?;
        for item in list.items.into_iter().flatten() {
            if name_of(item)? == self.desired.name() {
                let judged = self.desired.judge(item.get().as_bytes(), self.found, now.unix)?;
                return Ok(Some((list.metadata.resource_version, judged)));
            }
        }
        Ok(None)
    }

    /// Handles an answer that refuses a watch.
    pub(super) fn watch_refused(&mut self, response: &Response, now: Now) {
        match response.status {
            // The role lacks the verb watch. Reading needs the verb get only.
            403 => {
                self.polls = Some(0);
                self.wait_for_decision(now);
            }
            401 => self.fail(self.error_context().refused(response)),
            // The 404 may come from a proxy in between: the answer to a read decides whether the object exists.
            404 => self.read_again(format!("the server answered {}", ErrorAnswer::read(response).text), now),
            410 => self.expired(now),
            // A server that cannot serve a watch may still answer a GET.
            _ => self.try_later(self.reading(), response, now),
        }
    }

    /// Handles bytes of a watch, which may hold several events or part of one.
    pub(super) fn watched(&mut self, piece: &[u8], now: Now) {
        self.lines.push(piece);
        while let Stage::Watching(_) = self.stage {
            match self.lines.next(self.session.identity().token()) {
                Ok(Some(line)) => self.on_watch_event(decode(&line), now),
                Ok(None) => return,
                Err(_) => self.read_again("the watch sent an event longer than 1.5 MiB".to_owned(), now),
            }
        }
    }

    fn on_watch_event(&mut self, event: WatchEvent, now: Now) {
        match event {
            WatchEvent::Nothing => {}
            // A server that ignores field selectors sends the events of all objects.
            WatchEvent::Object { name, .. } | WatchEvent::Deleted { name } if name != self.desired.name() => {}
            WatchEvent::Object { object, .. } => {
                match self.desired.judge(object.get().as_bytes(), self.found, now.unix) {
                    Ok(judged) => self.settle(judged, now),
                    Err(error) => self.read_again(unreadable(&error), now),
                }
            }
            WatchEvent::Deleted { .. } => self.vanished("it was deleted"),
            WatchEvent::Bookmark(version) => self.cursor.bookmark(version),
            WatchEvent::Expired => self.expired(now),
            WatchEvent::Over(why) => self.read_again(why, now),
        }
    }

    /// Handles an HTTP request without a usable answer: repeats the request, makes another one, or fails the
    /// submission.
    pub(super) fn lost(&mut self, purpose: Purpose, error: ExchangeError, now: Now) {
        match (&error, purpose) {
            // A list may be too long to read if the server ignores field selectors: the object alone is not.
            (ExchangeError::Http(_) | ExchangeError::Unusable(_), Purpose::List) => {
                (self.lists, self.stage) = (false, Stage::Next(Purpose::Read));
            }
            // Repeating at once would fail in the same way. In later stages, connection errors are worth a repetition,
            // since the request object exists; before, the rotation's own backoff decides.
            (
                ExchangeError::NoRoots
                | ExchangeError::Setup(_)
                | ExchangeError::CertificateRefused(_)
                | ExchangeError::UnknownIssuer(_)
                | ExchangeError::Untrusted(_)
                | ExchangeError::Unusable(_),
                _,
            )
            | (
                ExchangeError::Connect(_) | ExchangeError::Proxy(_) | ExchangeError::Tls(_) | ExchangeError::Http(_),
                Purpose::Create,
            ) => {
                self.fail(self.error_context().lost(&error));
            }
            (ExchangeError::Closed | ExchangeError::Broken(_) | ExchangeError::TimedOut(_), Purpose::Create) => {
                if self.creations < CREATE_ATTEMPTS {
                    // Repeating the POST is safe: the name is the same, so that a second one is answered with 409.
                    self.retry(Purpose::Create, error.to_string(), None, now);
                } else {
                    self.fail(self.error_context().lost(&error));
                }
            }
            (_, Purpose::Read | Purpose::List) => self.retry(purpose, error.to_string(), None, now),
            (_, Purpose::Group) => self.fail(match &self.absent {
                Some((absent, _)) => self.error_context().refused(absent),
                None => self.error_context().lost(&error),
            }),
            (_, Purpose::Watch) => self.read_again(error.to_string(), now),
        }
    }

    /// Handles a successful answer. A body that is not a request object counts as a lost answer.
    fn settle_or_lose(&mut self, purpose: Purpose, response: &Response, now: Now) {
        match self.desired.judge(&response.body, self.found, now.unix) {
            Ok(judged) => self.settle(judged, now),
            Err(error) => {
                let kind = self.desired.resource().kind;
                let found = if error.is_data() { format!("JSON, but not a {kind}") } else { "not JSON".to_owned() };
                let what = format!("the answer is {found}: {}", ErrorAnswer::read(response).text);
                self.lost(purpose, ExchangeError::Http(what), now);
            }
        }
    }

    /// Judges the current state of the request object. Ends the submission, or waits for the next change of the object.
    fn settle(&mut self, Judged { metadata, verdict }: Judged, now: Now) {
        if self.uid.get_or_insert_with(|| metadata.uid.clone()) != &metadata.uid {
            // Another UID: the object was deleted and created again since this submission first read the object.
            return self.vanished("it was replaced by another of the same name");
        }
        match verdict {
            Ok(Verdict::Undecided { approved }) => self.approved |= approved,
            Ok(Verdict::Issued { chain, renewal }) => {
                let requests = self.session.requests();
                let health = self.health();
                return self.finish(Ok(Issued { chain, requests, health, renewal }));
            }
            Err(Refusal { failure, what, accepted_key }) => {
                return self.fail(SignError { accepted_key, ..self.error_context().judged(failure, what) });
            }
        }
        self.cursor.saw(&metadata.resource_version);
        match self.stage {
            Stage::Watching(_) => {}
            Stage::Next(_) | Stage::Requesting(_) | Stage::Pausing { .. } | Stage::Finished(_) => {
                self.wait_for_decision(now)
            }
        }
    }
}

/// True for a status that may be different later.
const fn temporary(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}
