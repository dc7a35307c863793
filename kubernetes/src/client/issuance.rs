//! One submission of a certificate request: create the object, watch it, and return the certificate.
//!
//! ```text
//!  Create ──201──▶ Watch ──approved and issued──▶ certificate
//!    │ 409          │ ▲ ended, broken
//!    └────▶ Read ◀──┘ │          after a 410, List instead of Read:
//!             └───────┘          the next watch begins at the list's version
//!               undecided
//! ```
//!
//! A submission that may keep its connection makes one Read between Create and the first Watch. An object that is read
//! in lists has a List in place of each Read, until the server refuses a List.

mod answers;

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Now};

use super::backoff::Jitter;
use super::cursor::Cursor;
use super::desired::Desired;
use super::desired_csr::DesiredCsr;
use super::desired_pod_certificate::DesiredPodCertificate;
use super::http::Request;
use super::limits::Limits;
use super::response::{ErrorAnswer, Event, Response};
use super::session::Session;
use super::submission_error::ErrorContext;
use super::watch::Lines;
use crate::cluster::Cluster;
use crate::objects::GROUP_PATH;
use perennial_rotation::{
    Conversation, Health, Identity, IoEvent, IoRequest, Issued, Progress, SignError, SignerConversation,
};

/// The greatest number of attempts to create the object, if the server answers none of them.
const CREATE_ATTEMPTS: u32 = 3;
/// A watch that lasted at least this long counts as a success, even if it broke: the number of failures returns to 0.
const GOOD_WATCH: Duration = Duration::from_secs(60);
/// The time that a watch may last beyond its requested duration. Then the client closes the watch and reads the object.
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// The pause before the object is read for the first time, if the connection is to be kept. Signers that approve by
/// themselves take some tens of milliseconds.
const GLANCE: Duration = Duration::from_millis(100);
/// The longest pause for a `Retry-After`, equal to the default request timeout. A longer `Retry-After` is shortened to
/// this pause.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// One submission of a certificate request. Its outcome is the issued chain, or the reason why there is none. The
/// caller limits the total time: dropping the submission ends it.
#[derive(derive_more::Debug)]
#[debug("Issuance({}, {session:?}, {:?})", desired.name(), self.progress())]
pub struct Issuance {
    desired: Box<dyn Desired>,
    session: Session,
    stage: Stage,
    jitter: Jitter,
    creations: u32,
    /// The number of failures in a row. Each makes the next pause longer.
    failures: u32,
    /// The text of the last failure, for the error of the submission.
    last_error: String,
    /// The time and the reason of the next retry. `None` unless an HTTP request has failed and the server has not
    /// answered since.
    retry: Option<(Instant, String)>,
    /// The UID of the request object; `None` before the server has returned the object.
    uid: Option<String>,
    /// True once an approver has approved the request.
    approved: bool,
    /// True if creating the object was answered with 409: the object may be much older than this submission.
    found: bool,
    cursor: Cursor,
    lines: Lines,
    /// The number of reads of the object since watching was given up; `None` while watching works.
    polls: Option<u32>,
    /// True if the object is read in a list, and the server has refused no list: see [`Desired::is_read_in_lists`].
    lists: bool,
    /// True if the object is to be read once before it is watched, since a watch ends the use of the connection.
    glances: bool,
    /// The 404 to the creation of the object, and the server's health at that time. Set while the submission reads the
    /// API group, since the versions listed there explain the 404.
    absent: Option<(Response, Option<Health>)>,
}

/// The purpose of an HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Create,
    /// Read the object by its name.
    Read,
    /// Read the object in a list. The next watch begins at the version of the list, which is the server's current
    /// version. The version of the object itself may be too old for a watch.
    List,
    Watch,
    /// Read the API group, which lists its served versions.
    Group,
}

/// The progress of a submission.
enum Stage {
    /// Make the HTTP request for this purpose now.
    Next(Purpose),
    Requesting(Purpose),
    /// The watch has been open since this time.
    Watching(Instant),
    Pausing {
        purpose: Purpose,
        until: Instant,
    },
    Finished(Option<Result<Issued, SignError>>),
}

impl Issuance {
    /// Submits `desired_csr` to `cluster`, authenticated as `identity`. `seed` determines the pauses: nodes of a fleet
    /// with different seeds do not retry at the same time.
    pub fn new(desired_csr: DesiredCsr, cluster: Arc<Cluster>, identity: Identity, limits: Limits, seed: u64) -> Self {
        Self::of(Box::new(desired_csr), cluster, identity, limits, seed)
    }

    /// Submits a request for the certificate of a pod, as [`new`](Self::new) submits a CSR.
    pub fn of_pod(
        desired: DesiredPodCertificate,
        cluster: Arc<Cluster>,
        identity: Identity,
        limits: Limits,
        seed: u64,
    ) -> Self {
        Self::of(Box::new(desired), cluster, identity, limits, seed)
    }

    fn of(desired: Box<dyn Desired>, cluster: Arc<Cluster>, identity: Identity, limits: Limits, seed: u64) -> Self {
        Self {
            lists: desired.is_read_in_lists(),
            desired,
            session: Session::new(cluster, identity, limits),
            stage: Stage::Next(Purpose::Create),
            jitter: Jitter::new(seed),
            creations: 0,
            failures: 0,
            last_error: String::new(),
            retry: None,
            uid: None,
            approved: false,
            found: false,
            cursor: Cursor::default(),
            lines: Lines::default(),
            polls: None,
            glances: false,
            absent: None,
        }
    }

    /// Lets the submission use a connection that an earlier submission has kept, and keep its own. Changes nothing
    /// unless the cluster [keeps connections](Cluster::with_kept_connections).
    #[must_use]
    pub fn sharing_connections(mut self) -> Self {
        self.session.share();
        self.glances = self.session.is_shared();
        self
    }

    /// The number of HTTP requests made so far.
    pub const fn requests(&self) -> u32 {
        self.session.requests()
    }

    fn advance(&mut self, now: Now) {
        // A request may fail at once, such as without a CA: its event begins the next one, or ends the submission.
        loop {
            match self.stage {
                Stage::Next(purpose) => self.begin(purpose, now),
                Stage::Pausing { purpose, until, .. } if now.instant >= until => self.begin(purpose, now),
                Stage::Requesting(_) | Stage::Watching(_) | Stage::Pausing { .. } | Stage::Finished(_) => {}
            }
            match self.session.event(now) {
                Some(event) => self.on_event(event, now),
                None => return,
            }
        }
    }

    /// Begins an HTTP request. Fails the submission instead if it has already made as many HTTP requests as
    /// [`Limits::requests`] allows.
    fn begin(&mut self, purpose: Purpose, now: Now) {
        if self.session.exhausted() {
            let requests = self.session.requests();
            // No HTTP request has failed lately: the approver is slow, not the server.
            let undecided = self.uid.is_some() && self.failures == 0;
            return self.fail(if undecided {
                let what = format_args!("neither a certificate nor a refusal after {requests} HTTP requests");
                self.error_context().judged(Failure::TimedOut, what)
            } else {
                self.error_context().given_up(requests, &self.last_error)
            });
        }
        let (request, stream) = match purpose {
            Purpose::Create => {
                self.creations += 1;
                (self.desired.create(), None)
            }
            Purpose::Read => (self.desired.read(), None),
            Purpose::List => (self.desired.list(), None),
            Purpose::Group => (Request::get(GROUP_PATH), None),
            Purpose::Watch => {
                // The duration of client-go's reflector (`minWatchTimeout`), random so that a fleet does not reconnect
                // at once.
                let seconds = self.jitter.between(300, 600);
                // A line that the end of the previous watch cut off must not join the first one of this watch.
                self.lines = Lines::default();
                (self.desired.watch(self.cursor.version(), seconds), Some(Duration::from_secs(seconds) + WATCH_GRACE))
            }
        };
        self.session.send(request, stream, now);
        self.stage = Stage::Requesting(purpose);
    }

    fn on_event(&mut self, event: Event, now: Now) {
        let purpose = match self.stage {
            Stage::Requesting(purpose) => purpose,
            Stage::Watching(_) => Purpose::Watch,
            Stage::Next(_) | Stage::Pausing { .. } | Stage::Finished(_) => return,
        };
        if let Event::Answer(_) | Event::Opened = event {
            self.retry = None;
        }
        match event {
            Event::Answer(response) => match purpose {
                Purpose::Create => self.created(&response, now),
                Purpose::Read => self.read(&response, now),
                Purpose::List => self.listed(&response, now),
                Purpose::Watch => self.watch_refused(&response, now),
                Purpose::Group => {
                    let absent = self.absent.as_ref().map_or(&response, |(absent, _)| absent);
                    self.fail(self.error_context().absent(absent, &response));
                }
            },
            Event::Opened => self.stage = Stage::Watching(now.instant),
            Event::Piece(piece) => self.watched(&piece, now),
            Event::Closed => self.read_again("the watch ended".to_owned(), now),
            Event::Lost(error) => self.lost(purpose, error, now),
        }
    }

    /// The purpose of the HTTP request that reads the object.
    const fn reading(&self) -> Purpose {
        if self.lists { Purpose::List } else { Purpose::Read }
    }

    /// Waits for a decision on the request: by a watch, or, where watching does not work, by reading the object at
    /// intervals.
    fn wait_for_decision(&mut self, now: Now) {
        let reading = self.reading();
        self.stage = match &mut self.polls {
            None if std::mem::take(&mut self.glances) => {
                Stage::Pausing { purpose: reading, until: self.session.after_pause(GLANCE, now.instant) }
            }
            None => Stage::Next(Purpose::Watch),
            Some(polls) => {
                let until = self.session.after_pause(self.jitter.poll(*polls), now.instant);
                *polls += 1;
                self.failures = 0;
                Stage::Pausing { purpose: reading, until }
            }
        };
    }

    /// Handles 410: the server's watch cache no longer reaches back to the cursor's version, as after a restart of the
    /// API server. A 410 does not count as a failure. After a first 410, the next watch begins at the version of a
    /// list. If the server refuses the list's version too, the client polls the object from then on.
    fn expired(&mut self, now: Now) {
        self.end_watch(now);
        self.stage = Stage::Next(if self.cursor.expire() {
            Purpose::List
        } else {
            self.polls.get_or_insert(0);
            self.reading()
        });
    }

    /// Reads the object after a watch has ended or failed: at once if this is the first failure in a row, otherwise
    /// after a pause.
    fn read_again(&mut self, why: String, now: Now) {
        self.end_watch(now);
        if self.failures == 0 {
            (self.failures, self.last_error, self.stage) = (1, why, Stage::Next(self.reading()));
        } else {
            self.retry(self.reading(), why, None, now);
        }
    }

    fn end_watch(&mut self, now: Now) {
        if matches!(self.stage, Stage::Watching(since) if now.instant.since(since) >= GOOD_WATCH) {
            // API servers end each watch after some minutes, so that such an end is no failure.
            self.failures = 0;
            self.cursor.good();
        }
        self.session.stop();
    }

    /// Repeats an HTTP request that was answered with a temporary error, honouring `Retry-After`.
    fn try_later(&mut self, purpose: Purpose, response: &Response, now: Now) {
        let answer = ErrorAnswer::read(response);
        let retry_after = answer.retry_after.or(response.retry_after);
        self.retry(purpose, format!("the server answered {}", answer.text), retry_after, now);
    }

    /// Makes the HTTP request for `purpose` after a pause. The pause grows with each failure in a row, and lasts for
    /// `retry_after` if that is longer. `retry_after` counts up to [`LONGEST_RETRY_AFTER`], and [`Limits::needed_by`]
    /// may shorten the pause.
    fn retry(&mut self, purpose: Purpose, why: String, retry_after: Option<Duration>, now: Now) {
        let retry_after = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        // A short Retry-After does not shorten the backoff.
        let wanted = self.jitter.backoff(self.failures).max(retry_after);
        let until = self.session.after_pause(wanted, now.instant);
        self.failures += 1;
        self.retry = Some((until, format!("{}: {why}", self.error_context())));
        self.last_error = why;
        self.stage = Stage::Pausing { purpose, until };
    }

    /// Fails the submission, since the request object was deleted or replaced by another object of the same name.
    fn vanished(&mut self, what: &'static str) {
        self.fail(self.error_context().judged(Failure::Deleted, what));
    }

    fn fail(&mut self, error: SignError) {
        if error.credential_refused || error.failure == Failure::Unauthorized {
            self.session.forget_kept();
        }
        let health = self.health();
        self.finish(Err(SignError { health, ..error }));
    }

    /// Ends the submission. Keeps its connection after a success, if possible.
    fn finish(&mut self, outcome: Result<Issued, SignError>) {
        match outcome {
            Ok(_) => self.session.keep(),
            Err(_) => self.session.close(),
        }
        self.stage = Stage::Finished(Some(outcome));
    }

    fn error_context(&self) -> ErrorContext<'_> {
        let (cluster, identity) = (self.session.cluster(), self.session.identity());
        ErrorContext { cluster, identity, desired: &*self.desired, exists: self.uid.is_some() }
    }
}

impl Conversation for Issuance {
    type Outcome = Result<Issued, SignError>;

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        self.session.handle(input, now);
        self.advance(now);
    }

    fn poll(&mut self, now: Now) -> IoRequest<Self::Outcome> {
        self.advance(now);
        if let Some(step) = self.session.step(now) {
            return step;
        }
        match &mut self.stage {
            Stage::Finished(outcome) => outcome.take().map_or(IoRequest::Wait { until: Instant::MAX }, IoRequest::Done),
            Stage::Pausing { until, .. } => IoRequest::Wait { until: *until },
            // Unreachable: while there is a request, the session has a step.
            Stage::Next(_) | Stage::Requesting(_) | Stage::Watching(_) => IoRequest::Wait { until: now.instant },
        }
    }
}

impl SignerConversation for Issuance {
    fn progress(&self) -> Progress {
        let request_name = self.desired.name().to_owned();
        match (&self.retry, &self.uid) {
            _ if matches!(self.stage, Stage::Finished(_)) => Progress::Finished,
            (Some((at, why)), _) => Progress::Retrying { at: *at, why: why.clone() },
            (None, Some(_)) if self.approved => Progress::WaitingForIssuance { request_name },
            (None, Some(_)) => Progress::WaitingForApproval { request_name },
            (None, None) if self.session.connecting() => Progress::Connecting,
            (None, None) => Progress::Submitting,
        }
    }

    fn health(&self) -> Option<Health> {
        match &self.absent {
            // The GET of the group only explains the 404, and does not change what is known of the server.
            Some((_, health)) => *health,
            None => self.session.health(),
        }
    }
}
