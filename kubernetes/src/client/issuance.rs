//! One submission of a certificate request: create, watch, certificate.
//!
//! ```text
//!  Create ──201──▶ Watch ──approved and issued──▶ certificate
//!    │ 409          │ ▲ ended, broken
//!    └────▶ Read ◀──┘ │          410: List instead, whose version
//!             └───────┘          a watch can begin after
//!               undecided
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Now};

use super::ask::Ask;
use super::backoff::Dice;
use super::conversation::{Conversation, Input, Step};
use super::csr_error::{CsrError, Said, Scene};
use super::cursor::Cursor;
use super::exchange::ExchangeError;
use super::health::Health;
use super::http::Request;
use super::session::{Event, Limits, Response, Session};
use super::verdict::Verdict;
use super::watch::{Lines, News, list, news};
use crate::cluster::{Cluster, Identity};
use crate::objects::{CertificateSigningRequest, GROUP_PATH};

use super::progress::{Issued, Progress};

/// How often a request that was sent is sent again when no answer comes.
const CREATE_ATTEMPTS: u32 = 3;
/// A watch that lasted this long was in order, whatever ended it.
const GOOD_WATCH: Duration = Duration::from_secs(60);
/// What a server may take beyond the time it was asked to end a watch at.
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// A server's wish for patience counts up to this; the request as a whole times out about then.
const LONGEST_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// One submission. It ends with a certificate, with a reason why there is none, or with being dropped:
/// how long to wait altogether is the caller's decision.
pub struct Issuance {
    ask: Ask,
    session: Session,
    stage: Stage,
    dice: Dice,
    creations: u32,
    /// Troubles in a row; each makes the next pause longer.
    troubles: u32,
    /// The last of them, for the final report.
    trouble: String,
    /// UID of the request object, once it is known.
    uid: Option<String>,
    approved: bool,
    /// Creating it was answered with 409: it may be much older than this submission.
    found: bool,
    cursor: Cursor,
    lines: Lines,
    /// Set where watching is forbidden or cannot be had: how often the object was read instead.
    polls: Option<u32>,
    /// There is no place for the request: how that was said, and what it told of the server.
    absent: Option<(Response, Option<Health>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Create,
    /// The object by its name.
    Read,
    /// The object in a list, whose version is that of the server: the object's may be too old to watch from.
    List,
    Watch,
    /// Which versions of the API there are.
    Group,
}

enum Stage {
    /// To be asked now.
    Next(Aim),
    Asking(Aim),
    /// The watch is open since then.
    Watching(Instant),
    Pausing {
        aim: Aim,
        until: Instant,
        why: Option<String>,
    },
    Finished(Option<Result<Issued, CsrError>>),
}

impl Issuance {
    /// Submits `ask` to `cluster` as `identity`. `seed` spreads the pauses of a fleet.
    pub fn new(ask: Ask, cluster: Arc<Cluster>, identity: Identity, limits: Limits, seed: u64) -> Self {
        Self {
            ask,
            session: Session::new(cluster, identity, limits),
            stage: Stage::Next(Aim::Create),
            dice: Dice::new(seed),
            creations: 0,
            troubles: 0,
            trouble: String::new(),
            uid: None,
            approved: false,
            found: false,
            cursor: Cursor::default(),
            lines: Lines::default(),
            polls: None,
            absent: None,
        }
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        let csr_name = self.ask.name.clone();
        match &self.stage {
            Stage::Finished(_) => Progress::Finished,
            Stage::Pausing { until, why: Some(why), .. } => Progress::Retrying { at: *until, why: why.clone() },
            Stage::Next(_) | Stage::Asking(_) | Stage::Watching(_) | Stage::Pausing { .. } => match &self.uid {
                Some(_) if self.approved => Progress::WaitingForIssuance { csr_name },
                Some(_) => Progress::WaitingForApproval { csr_name },
                None if self.session.connecting() => Progress::Connecting,
                None => Progress::Submitting,
            },
        }
    }

    /// What the last answer told of the API server; `None` before the first.
    pub const fn health(&self) -> Option<Health> {
        match &self.absent {
            Some((_, health)) => *health,
            None => self.session.health(),
        }
    }

    /// HTTP requests made so far.
    pub const fn requests(&self) -> u32 {
        self.session.requests()
    }

    fn advance(&mut self, now: Now) {
        loop {
            match self.stage {
                Stage::Next(aim) => self.begin(aim, now),
                Stage::Pausing { aim, until, .. } if now.instant >= until => self.begin(aim, now),
                Stage::Asking(_) | Stage::Watching(_) | Stage::Pausing { .. } | Stage::Finished(_) => {}
            }
            match self.session.event(now) {
                Some(event) => self.on_event(event, now),
                None => return,
            }
        }
    }

    fn begin(&mut self, aim: Aim, now: Now) {
        if self.session.exhausted() {
            let requests = self.session.requests();
            let undecided = self.uid.is_some() && self.troubles == 0;
            return self.fail(if undecided {
                let what = format_args!("it is still undecided after {requests} HTTP requests");
                self.scene().judged(Failure::TimedOut, what)
            } else {
                self.scene().given_up(requests, &self.trouble)
            });
        }
        let (request, stream) = match aim {
            Aim::Create => {
                self.creations += 1;
                (self.ask.create(), None)
            }
            Aim::Read => (self.ask.read(), None),
            Aim::List => (self.ask.list(), None),
            Aim::Group => (Request::get(GROUP_PATH), None),
            Aim::Watch => {
                let seconds = self.dice.between(300, 600);
                self.lines = Lines::default();
                (self.ask.watch(self.cursor.version(), seconds), Some(Duration::from_secs(seconds) + WATCH_GRACE))
            }
        };
        self.session.send(request, stream, now);
        self.stage = Stage::Asking(aim);
    }

    fn on_event(&mut self, event: Event, now: Now) {
        let aim = match self.stage {
            Stage::Asking(aim) => aim,
            Stage::Watching(_) => Aim::Watch,
            Stage::Next(_) | Stage::Pausing { .. } | Stage::Finished(_) => return,
        };
        match event {
            Event::Answer(response) => match aim {
                Aim::Create => self.created(&response, now),
                Aim::Read => self.read(&response, now),
                Aim::List => self.listed(&response, now),
                Aim::Watch => self.watch_refused(&response, now),
                Aim::Group => {
                    let absent = self.absent.as_ref().map_or(&response, |(absent, _)| absent);
                    self.fail(self.scene().absent(absent, &response));
                }
            },
            Event::Opened => self.stage = Stage::Watching(now.instant),
            Event::Piece(piece) => self.watched(&piece, now),
            Event::Closed => self.look_again("the watch ended".to_owned(), now),
            Event::Lost(error) => self.lost(aim, error, now),
        }
    }

    fn created(&mut self, response: &Response, now: Now) {
        match response.status {
            // What is there may be ours: submitted before a crash, or by a POST whose answer got lost.
            409 => (self.found, self.stage) = (true, Stage::Next(Aim::Read)),
            200..=299 => self.settle_or_lose(Aim::Create, response, now),
            // An old API server, or another server written in Go: the group tells.
            404 if Said::is_no_path(response) && !self.session.exhausted() => {
                self.absent = Some((response.clone(), self.session.health()));
                self.stage = Stage::Next(Aim::Group);
            }
            _ => self.fail(self.scene().refused(response)),
        }
    }

    fn read(&mut self, response: &Response, now: Now) {
        match response.status {
            200 => self.settle_or_lose(Aim::Read, response, now),
            404 => self.fail(self.scene().gone(response)),
            status if temporary(status) => self.try_later(Aim::Read, response, now),
            _ => self.fail(self.scene().refused(response)),
        }
    }

    fn listed(&mut self, response: &Response, now: Now) {
        match response.status {
            200 => match list(&response.body) {
                Ok(list) => match list.items.into_iter().find(|object| object.metadata.name == self.ask.name) {
                    Some(object) => {
                        self.cursor.listed(list.metadata.resource_version, &object.metadata.resource_version);
                        self.settle(object, now);
                    }
                    None => self.vanished("it is gone: the server lists no object of this name"),
                },
                Err(_) => self.stage = Stage::Next(Aim::Read),
            },
            401 => self.fail(self.scene().refused(response)),
            status if temporary(status) => self.try_later(Aim::List, response, now),
            // The object itself may still be readable, as where a role lacks the verb list.
            _ => self.stage = Stage::Next(Aim::Read),
        }
    }

    fn watch_refused(&mut self, response: &Response, now: Now) {
        match response.status {
            403 => {
                self.polls = Some(0);
                self.wait_for_news(now);
            }
            401 => self.fail(self.scene().refused(response)),
            404 => self.look_again(format!("the server answered {}", Said::read(response).text), now),
            410 => self.expired(now),
            // A server that cannot watch for whatever reason may still answer a GET.
            _ => self.try_later(Aim::Read, response, now),
        }
    }

    fn watched(&mut self, piece: &[u8], now: Now) {
        self.lines.push(piece);
        while let Stage::Watching(_) = self.stage {
            match self.lines.next() {
                Ok(Some(line)) => self.on_news(news(&line), now),
                Ok(None) => return,
                Err(_) => self.look_again("the watch sent an event longer than 1.5 MiB".to_owned(), now),
            }
        }
    }

    fn on_news(&mut self, news: News, now: Now) {
        match news {
            News::Nothing => {}
            // A server that ignores field selectors speaks of others too.
            News::Object(object) | News::Deleted(object) if object.metadata.name != self.ask.name => {}
            News::Object(object) => self.settle(*object, now),
            News::Deleted(_) => self.vanished("it was deleted"),
            News::Bookmark(version) => self.cursor.bookmark(version),
            News::Expired => self.expired(now),
            News::Over(why) => self.look_again(why, now),
        }
    }

    fn lost(&mut self, aim: Aim, error: ExchangeError, now: Now) {
        match (&error, aim) {
            // For example longer than any answer may be: a server that ignores field selectors lists everything.
            (ExchangeError::Http(_) | ExchangeError::Unusable(_), Aim::List) => self.stage = Stage::Next(Aim::Read),
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
                Aim::Create,
            ) => {
                self.fail(self.scene().lost(&error));
            }
            (ExchangeError::Closed | ExchangeError::Broken(_) | ExchangeError::TimedOut(_), Aim::Create) => {
                if self.creations < CREATE_ATTEMPTS {
                    // The name makes it safe: if the first one arrived, the answer is 409.
                    self.retry(Aim::Create, error.to_string(), None, now);
                } else {
                    self.fail(self.scene().lost(&error));
                }
            }
            (_, Aim::Read | Aim::List) => self.retry(aim, error.to_string(), None, now),
            (_, Aim::Group) => self.fail(match &self.absent {
                Some((absent, _)) => self.scene().refused(absent),
                None => self.scene().lost(&error),
            }),
            (_, Aim::Watch) => self.look_again(error.to_string(), now),
        }
    }

    fn settle_or_lose(&mut self, aim: Aim, response: &Response, now: Now) {
        match serde_json::from_slice(&response.body) {
            Ok(object) => self.settle(object, now),
            Err(error) => {
                let what = format!("the answer is not a CSR ({error}): {}", Said::read(response).text);
                self.lost(aim, ExchangeError::Http(what), now);
            }
        }
    }

    /// The request object is this: decide, or wait for news.
    fn settle(&mut self, object: CertificateSigningRequest, now: Now) {
        if self.uid.get_or_insert_with(|| object.metadata.uid.clone()) != &object.metadata.uid {
            return self.vanished("it was replaced by another of the same name");
        }
        match self.ask.judge(&object, self.found, now.unix) {
            Ok(Verdict::Undecided { approved }) => self.approved |= approved,
            Ok(Verdict::Issued(chain)) => {
                let requests = self.session.requests();
                return self.finish(Ok(Issued { chain, csr_name: self.ask.name.clone(), requests }));
            }
            Err((failure, what)) => return self.fail(self.scene().judged(failure, what)),
        }
        self.cursor.saw(&object.metadata.resource_version);
        match self.stage {
            Stage::Watching(_) => {}
            Stage::Next(_) | Stage::Asking(_) | Stage::Pausing { .. } | Stage::Finished(_) => self.wait_for_news(now),
        }
    }

    /// Nothing is decided: watch, or where that is forbidden, look now and then.
    fn wait_for_news(&mut self, now: Now) {
        self.stage = match &mut self.polls {
            None => Stage::Next(Aim::Watch),
            Some(polls) => {
                let until = self.session.after_pause(self.dice.poll(*polls), now.instant);
                *polls += 1;
                self.troubles = 0;
                Stage::Pausing { aim: Aim::Read, until, why: None }
            }
        };
    }

    /// The server's watch cache is younger than the version to watch from, as after a restart of the API server. That is
    /// no trouble: a list has the version of the server, and the next watch begins there. If that does not help either, the
    /// object is read now and then.
    fn expired(&mut self, now: Now) {
        self.end_watch(now);
        self.stage = Stage::Next(if self.cursor.expire() {
            Aim::List
        } else {
            self.polls.get_or_insert(0);
            Aim::Read
        });
    }

    /// The watch cannot go on; the object itself tells more. At once, unless that keeps happening.
    fn look_again(&mut self, why: String, now: Now) {
        self.end_watch(now);
        if self.troubles == 0 {
            (self.troubles, self.trouble, self.stage) = (1, why, Stage::Next(Aim::Read));
        } else {
            self.retry(Aim::Read, why, None, now);
        }
    }

    fn end_watch(&mut self, now: Now) {
        if matches!(self.stage, Stage::Watching(since) if now.instant.since(since) >= GOOD_WATCH) {
            self.troubles = 0;
            self.cursor.good();
        }
        self.session.stop();
    }

    fn try_later(&mut self, aim: Aim, response: &Response, now: Now) {
        let said = Said::read(response);
        let retry_after = said.retry_after.or(response.retry_after);
        self.retry(aim, format!("the server answered {}", said.text), retry_after, now);
    }

    fn retry(&mut self, aim: Aim, why: String, retry_after: Option<Duration>, now: Now) {
        let patience = retry_after.unwrap_or_default().min(LONGEST_PATIENCE);
        let wanted = self.dice.backoff(self.troubles).max(patience);
        let until = self.session.after_pause(wanted, now.instant);
        self.troubles += 1;
        self.trouble.clone_from(&why);
        self.stage = Stage::Pausing { aim, until, why: Some(why) };
    }

    fn vanished(&mut self, what: &'static str) {
        self.fail(self.scene().judged(Failure::Deleted, what));
    }

    fn fail(&mut self, error: CsrError) {
        let health = self.health();
        self.finish(Err(CsrError { health, ..error }));
    }

    fn finish(&mut self, outcome: Result<Issued, CsrError>) {
        self.session.close();
        self.stage = Stage::Finished(Some(outcome));
    }

    fn scene(&self) -> Scene<'_> {
        let (cluster, identity) = (self.session.cluster(), self.session.identity());
        Scene { cluster, identity, name: &self.ask.name, exists: self.uid.is_some() }
    }
}

impl Conversation for Issuance {
    type Outcome = Result<Issued, CsrError>;

    fn handle(&mut self, input: Input<'_>, now: Now) {
        self.session.handle(input, now);
        self.advance(now);
    }

    fn poll(&mut self, now: Now) -> Step<Self::Outcome> {
        self.advance(now);
        if let Some(step) = self.session.step(now) {
            return step;
        }
        match &mut self.stage {
            Stage::Finished(outcome) => outcome.take().map_or(Step::Wait { until: Instant::MAX }, Step::Done),
            Stage::Pausing { until, .. } => Step::Wait { until: *until },
            // Unreachable: a request in hand always has a step.
            Stage::Next(_) | Stage::Asking(_) | Stage::Watching(_) => Step::Wait { until: now.instant },
        }
    }
}

impl fmt::Debug for Issuance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuance")
            .field("csr_name", &self.ask.name)
            .field("cluster", self.session.cluster())
            .field("identity", self.session.identity())
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

/// Answers that may be different later.
const fn temporary(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}
