//! [`Reporter`]: reports the progress and the result of an exchange to its rotation.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, RequestId};

use crate::handle::link::{Link, Message};
use crate::{Health, Input, Issued, Progress, SignError, SignerConversation};

/// The shortest interval between two reports that differ only in the time of the last answer. A streaming server may
/// send many messages a second, and each report wakes the loop.
const STILL: Duration = Duration::from_secs(10);

/// Reports progress and result of an exchange to the rotation, for the runtime that drives the exchange. Part of
/// [`Work::Drive`](crate::Work::Drive).
#[derive(Clone, Debug)]
pub struct Reporter {
    id: RequestId,
    exchange: u64,
    link: Arc<Link>,
    reported: Option<Report>,
}

/// A report: the progress of an exchange, and the health of the signer's server.
type Report = (Progress, Option<Health>);

impl Reporter {
    /// Makes the reporter of the exchange with this number, for the request `id`.
    pub(crate) fn new(id: RequestId, exchange: u64, link: Arc<Link>) -> Self {
        Self { id, exchange, link, reported: None }
    }

    /// Reports the progress of a conversation and the health of its server, if they have changed. Call this after every
    /// [`poll`](crate::Conversation::poll), before carrying out the operation that `poll` returned. A change of only
    /// the time of the last answer is reported every ten seconds at most.
    pub fn progress(&mut self, exchange: &dyn SignerConversation) {
        let report = (exchange.progress(), exchange.health());
        if self.reported.as_ref().is_none_or(|reported| is_news(reported, &report)) {
            self.reported = Some(report.clone());
            let (progress, health) = report;
            self.send(Input::Progressed { id: self.id, progress, health });
        }
    }

    fn send(&self, input: Input) {
        self.link.send(Message::Reported(self.exchange, input));
    }

    /// Reports that the exchange has ended: the issued chain or the error.
    pub fn finish(self, result: Result<Issued, SignError>) {
        self.send(Input::Finished { id: self.id, result });
    }

    /// Reports that the runtime cannot drive the exchange, which fails the request. `why` is a clause for people.
    pub fn fail(self, why: String) {
        self.finish(Err(SignError::new(Failure::Local, why)));
    }
}

/// True if `report` differs from `reported` in more than the time of the last answer, or if that time is later by
/// [`STILL`] or more.
fn is_news(reported: &Report, report: &Report) -> bool {
    match (reported.1, report.1) {
        _ if reported.0 != report.0 => true,
        (Some(before), Some(health)) => {
            before.answer != health.answer
                || before.date != health.date
                || health.at.instant.since(before.at.instant) >= STILL
        }
        (before, health) => before != health,
    }
}

#[cfg(test)]
mod tests {
    use perennial::{Instant, Now};

    use super::*;
    use crate::{Answer, ServerDate};

    fn report(answer: Answer, seconds: u64) -> Report {
        let at = Now { instant: Instant::from_millis(seconds * 1000), ..Now::default() };
        (Progress::WaitingForApproval { request_name: "a".into() }, Some(Health { answer, at, date: None }))
    }

    #[test]
    fn unchanged_health_is_reported_every_ten_seconds() {
        // A watch that receives data each second for a minute.
        let (mut last, mut count) = (report(Answer::Served, 0), 0);
        for news in (1..=60).map(|second| report(Answer::Served, second)) {
            if is_news(&last, &news) {
                (last, count) = (news, count + 1);
            }
        }
        assert_eq!((count, last), (6, report(Answer::Served, 60)));
    }

    #[test]
    fn changed_health_or_progress_is_reported_at_once() {
        let last = report(Answer::Served, 0);
        assert!(!is_news(&last, &last));
        assert!(is_news(&last, &report(Answer::Unreachable, 0)));
        assert!(is_news(&(Progress::Submitting, last.1), &last));
        assert!(is_news(&(last.0.clone(), None), &last));
        let date = Some(ServerDate { unix: Now::default().unix, at: Now::default().instant });
        assert!(is_news(&last, &(last.0.clone(), last.1.map(|health| Health { date, ..health }))));
    }
}
