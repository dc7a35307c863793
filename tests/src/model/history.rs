//! The facts of a run, newest last, and the questions that the rules ask of them.
//!
//! Facts are never changed or removed: each answer is found by a search from the newest fact back.

use std::sync::Arc;

use perennial::{Certificate, Failure, Fingerprint, Key, Now, Reason, SignerStatus, Template, UnixTime};

/// Milliseconds of the monotonic or the wall clock, in an integer so wide that no sum of times overflows.
pub(super) type Millis = i128;

/// An interval that contains a time which jitter has chosen. Both ends belong to the interval.
pub(super) type Between = (Millis, Millis);

/// The interval for a wait that is over: it lies at the origin of the clock.
pub(super) const NO_WAIT: Between = (0, 0);

#[derive(Clone, Debug)]
pub(super) enum Fact {
    Template(Option<Arc<Template>>),
    Signer(SignerStatus),
    Served(Arc<Certificate>),
    /// This certificate waits for its notBefore; `None`: no certificate waits any more.
    Waiting(Option<Arc<Certificate>>),
    /// A hint about the certificate with this fingerprint has set its rotation point; `None`: the hint had a fault.
    Hinted(Fingerprint, Option<UnixTime>),
    RefusedByServer,
    RotateNow,
    /// The run began with a pending record: an earlier run requested this template, and a retry uses this key.
    Resumed {
        template: Arc<Template>,
        key: Key,
    },
    /// A restart or a change of policy. From then on, two times stand for all earlier submissions: the spacing allows a
    /// request from `spaced` on, and the submission budget is full at `whole`.
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
    /// Attempts in a row have failed: this many, the last one with this failure. A failed attempt of this run is a fact
    /// of its own, with the number 1. Only the attempts of an earlier run are counted in one fact, from the pending
    /// record.
    Failed(Failure, u32),
    /// The backoff ends at a time in this interval.
    BackoffEnds(Between),
    /// Earlier failures no longer count.
    FailuresForgotten,
    /// The machine owes a write with this id: of the served certificate (true) or of the waiting one (false).
    OwesWrite(u64, bool),
    WriteDue(Between),
    WriteOrdered,
    WriteFailed,
    Written,
    /// A reading of the API server's clock, as the server's time minus the time of the monotonic clock when the reading
    /// arrived.
    ServerDated(Millis),
    /// The machine has settled, and a certificate was due for this reason; `None`: no certificate was due.
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

    /// The certificate whose rotation point counts: the waiting one if there is one, or else the served one.
    pub(super) fn newest_certificate(&self) -> Option<&Arc<Certificate>> {
        self.waiting().or_else(|| self.served())
    }

    /// The rotation point that a hint has set for the newest certificate, since the certificate was accepted.
    pub(super) fn hinted_rotation_point(&self) -> Option<UnixTime> {
        let newest = self.newest_certificate()?.fingerprint;
        self.last(|_, fact| match fact {
            Fact::Hinted(about, at) => Some(at.filter(|_| *about == newest)),
            // The newest certificate has taken its turn: the hint may have come while it waited.
            Fact::Served(certificate) if certificate.fingerprint == newest => None,
            Fact::Served(_) | Fact::Waiting(_) => Some(None),
            _ => None,
        })?
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

    /// True if a rotation was requested, and the machine has accepted no certificate since then.
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

    /// When each token of the submission budget was spent, newest first. The latest `Fact::Paced` stands for all tokens
    /// that were spent before it, as if one token had been spent a `refill` before `whole`, the time at which the
    /// budget is full.
    pub(super) fn spent(&self, refill: Millis) -> impl Iterator<Item = Millis> {
        let is_paced = |(_, fact): &(Now, Fact)| matches!(fact, Fact::Paced { .. });
        let begin = self.0.iter().rposition(is_paced).unwrap_or(0);
        self.0[begin..].iter().rev().filter_map(move |(now, fact)| match fact {
            Fact::Submitted { .. } => Some(now.instant.as_millis().into()),
            Fact::Paced { whole, .. } => Some(whole - refill),
            _ => None,
        })
    }

    /// The last failure that still counts, and how many failures of its kind came in a row. There are two kinds:
    /// refusals, and all other failures.
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

    /// The owed write: its id, true for the served or false for the waiting certificate, and the interval in which the
    /// next order to write comes.
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

    /// The latest readings of the API server's clock that agree: the first of these readings, and their number. A
    /// reading agrees if it differs from the first one by ten seconds at most. A reading is the server's time at the
    /// origin of the monotonic clock. `None` if there is no reading.
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

    /// True if a certificate was due because of its rotation point when the machine settled last, and the machine has
    /// accepted no certificate since then.
    pub(super) fn was_rotating(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::Settled(reason) => Some(*reason == Some(Reason::RotationPoint)),
            Fact::Served(_) | Fact::Waiting(Some(_)) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }
}
