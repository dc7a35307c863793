//! The facts of a run, newest last, and the questions that the rules ask of them.
//!
//! Facts are never changed or removed: each answer is found by a search from the newest fact back.

use std::sync::Arc;

use perennial::{Certificate, Failure, Key, Now, Reason, SignerStatus, Template};

/// Milliseconds of the monotonic or the wall clock, in an integer so wide that no sum of times overflows.
pub(super) type Millis = i128;

/// An interval, both ends included, in which a time that jitter chose is known to lie.
pub(super) type Between = (Millis, Millis);

/// The interval of no wait: it has passed at any time.
pub(super) const NO_WAIT: Between = (0, 0);

#[derive(Clone, Debug)]
pub(super) enum Fact {
    Template(Option<Arc<Template>>),
    Signer(SignerStatus),
    Served(Arc<Certificate>),
    /// This certificate waits for its notBefore; `None`: no certificate waits any more.
    Waiting(Option<Arc<Certificate>>),
    RefusedByServer,
    RotateNow,
    /// The run began with a pending record: an earlier run requested this template, and a retry uses this key.
    Resumed {
        template: Arc<Template>,
        key: Key,
    },
    /// A restart or a change of policy: `spaced` is when the spacing allows a request, `whole` is when the submission
    /// budget is full. These times stand for all earlier submissions.
    Paced {
        spaced: Millis,
        whole: Millis,
    },
    Submitted {
        id: u64,
        template: Arc<Template>,
    },
    /// The request in flight has ended.
    Ended,
    /// The pending key may not be used again.
    KeySpent,
    /// This many attempts in a row failed, the last one with this failure. The number is 1 for an attempt of this run:
    /// only the attempts of an earlier run share one fact.
    Failed(Failure, u32),
    /// The backoff ends at a time in this interval.
    BackoffEnds(Between),
    /// Earlier failures no longer count.
    FailuresForgotten,
    /// A write with this id is owed: of the served certificate (true) or of the waiting one.
    OwesWrite(u64, bool),
    WriteDue(Between),
    WriteOrdered,
    WriteFailed,
    Written,
    /// A reading of the API server's clock: the server's time, minus that of the monotonic clock.
    ServerDated(Millis),
    /// The machine settled, and a certificate was due for this reason; `None`: no certificate was due.
    Settled(Option<Reason>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct History(Vec<(Now, Fact)>);

impl History {
    pub(super) fn push(&mut self, now: Now, fact: Fact) {
        self.0.push((now, fact));
    }

    /// Searches from the newest fact back, and returns the first answer.
    fn last<'a, T>(&'a self, answer: impl Fn(Millis, &'a Fact) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|(now, fact)| answer(now.instant.as_millis().into(), fact))
    }

    pub(super) fn template(&self) -> Option<&Arc<Template>> {
        self.last(|_, fact| if let Fact::Template(template) = fact { Some(template.as_ref()) } else { None })?
    }

    pub(super) fn signer(&self) -> SignerStatus {
        let answer = |_, fact: &Fact| if let Fact::Signer(status) = fact { Some(*status) } else { None };
        self.last(answer).unwrap_or(SignerStatus::Absent)
    }

    pub(super) fn served(&self) -> Option<&Arc<Certificate>> {
        self.last(|_, fact| if let Fact::Served(certificate) = fact { Some(certificate) } else { None })
    }

    /// The accepted certificate that waits for its notBefore, if there is one.
    pub(super) fn waiting(&self) -> Option<&Arc<Certificate>> {
        self.last(|_, fact| match fact {
            Fact::Waiting(certificate) => Some(certificate.as_ref()),
            Fact::Served(_) => Some(None),
            _ => None,
        })?
    }

    /// The certificate whose age decides whether a successor is due: the waiting one, else the served one.
    pub(super) fn newest_certificate(&self) -> Option<&Arc<Certificate>> {
        self.waiting().or_else(|| self.served())
    }

    /// Whether a server refused the served certificate.
    pub(super) fn refused(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::RefusedByServer => Some(true),
            Fact::Served(_) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }

    /// Whether a rotation was requested and no certificate has been taken since.
    pub(super) fn rotate_now(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::RotateNow => Some(true),
            Fact::Served(_) | Fact::Waiting(Some(_)) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }

    /// The request in flight, and when it was submitted.
    pub(super) fn in_flight(&self) -> Option<(u64, Millis)> {
        self.last(|at, fact| match fact {
            Fact::Submitted { id, .. } => Some(Some((*id, at))),
            Fact::Ended => Some(None),
            _ => None,
        })?
    }

    /// The template of the last request.
    pub(super) fn last_requested(&self) -> Option<&Arc<Template>> {
        self.last(|_, fact| match fact {
            Fact::Submitted { template, .. } | Fact::Resumed { template, .. } => Some(template),
            _ => None,
        })
    }

    /// Whether the pending key may be used again.
    pub(super) fn key_is_reusable(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::Submitted { .. } => Some(true),
            Fact::Resumed { key, .. } => Some(*key == Key::Pending),
            Fact::KeySpent => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }

    /// When spacing allows the next submission.
    pub(super) fn spaced_at(&self, spacing: Millis) -> Millis {
        let answer = |at, fact: &Fact| match fact {
            Fact::Submitted { .. } => Some(at + spacing),
            Fact::Paced { spaced, .. } => Some(*spaced),
            _ => None,
        };
        self.last(answer).unwrap_or(0)
    }

    /// When each token of the submission budget was spent, newest first. All tokens of an earlier run or policy count
    /// as one token, spent at such a time that the budget is full when `Fact::Paced` states.
    pub(super) fn spent(&self, refill: Millis) -> impl Iterator<Item = Millis> {
        let is_paced = |(_, fact): &(Now, Fact)| matches!(fact, Fact::Paced { .. });
        let begin = self.0.iter().rposition(is_paced).unwrap_or(0);
        self.0[begin..].iter().rev().filter_map(move |(now, fact)| match fact {
            Fact::Submitted { .. } => Some(now.instant.as_millis().into()),
            Fact::Paced { whole, .. } => Some(whole - refill),
            _ => None,
        })
    }

    /// The last failure that still counts, and the number of failures of its kind in a row: refusals, or other
    /// failures.
    pub(super) fn failures(&self) -> Option<(Failure, u32)> {
        let counting = self.0.iter().rev().take_while(|(_, fact)| !matches!(fact, Fact::FailuresForgotten));
        let mut failed = counting.filter_map(|(_, f)| if let Fact::Failed(f, n) = f { Some((*f, *n)) } else { None });
        let (last, n) = failed.next()?;
        let alike = failed.take_while(|(failure, _)| failure.is_refusal() == last.is_refusal());
        Some((last, n + alike.map(|(_, n)| n).sum::<u32>()))
    }

    pub(super) fn backoff_ends(&self) -> Between {
        let answer = |_, fact: &Fact| match fact {
            Fact::BackoffEnds(between) => Some(*between),
            Fact::FailuresForgotten => Some(NO_WAIT),
            _ => None,
        };
        self.last(answer).unwrap_or(NO_WAIT)
    }

    /// The owed write: its id, whether the certificate is served (true) or waits, and the interval in which the write
    /// is repeated.
    pub(super) fn unwritten(&self) -> Option<(u64, bool, Between)> {
        let again = self.last(|_, fact| match fact {
            Fact::WriteDue(between) => Some(*between),
            _ => None,
        });
        let of = self.last(|_, fact| match fact {
            Fact::OwesWrite(id, held) => Some(Some((*id, *held))),
            Fact::Written => Some(None),
            _ => None,
        })?;
        let (id, held) = of?;
        Some((id, held, again?))
    }

    /// Whether a write is under way.
    pub(super) fn write_is_in_flight(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::WriteOrdered => Some(true),
            Fact::WriteFailed | Fact::Written | Fact::OwesWrite(..) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }

    pub(super) fn failed_writes(&self) -> u32 {
        let since = self.0.iter().rev().take_while(|(_, fact)| !matches!(fact, Fact::OwesWrite(..)));
        since.map(|(_, fact)| u32::from(matches!(fact, Fact::WriteFailed))).sum()
    }

    /// The latest readings of the API server's clock that agree within ten seconds: the first of them, and their
    /// number. A reading is the server's time at the origin of the monotonic clock. `None` if there is no reading.
    pub(super) fn server_clock(&self) -> Option<(Millis, usize)> {
        let readings =
            self.0.iter().filter_map(|(_, f)| if let Fact::ServerDated(origin) = f { Some(*origin) } else { None });
        let mut row: Vec<Millis> = vec![];
        for origin in readings {
            if row.first().is_some_and(|first| (origin - first).abs() > 10_000) {
                row.clear();
            }
            row.push(origin);
        }
        row.first().map(|first| (*first, row.len()))
    }

    /// Why a certificate was due when the machine settled last.
    pub(super) fn last_reason(&self) -> Option<Reason> {
        self.last(|_, fact| if let Fact::Settled(reason) = fact { Some(*reason) } else { None })?
    }

    /// Whether a certificate was due because of its rotation point when the machine settled last, and no certificate
    /// has been taken since.
    pub(super) fn was_rotating(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::Settled(reason) => Some(*reason == Some(Reason::RotationPoint)),
            Fact::Served(_) | Fact::Waiting(Some(_)) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }
}
