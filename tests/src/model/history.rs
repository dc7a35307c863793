//! What has happened, newest last, and the questions that the rules ask of it.
//!
//! Nothing here is ever changed or forgotten: an answer is found by looking back.

use std::sync::Arc;

use perennial::{Certificate, Failure, Key, Now, Reason, SignerStatus, Template};

/// Milliseconds on either clock. Wide enough that nothing saturates.
pub(super) type Millis = i128;

/// Two ends, both included. What jitter decides is known only so far.
pub(super) type Between = (Millis, Millis);

/// Before anything.
pub(super) const ALWAYS: Between = (0, 0);

#[derive(Clone, Debug)]
pub(super) enum Fact {
    Wanted(Option<Arc<Template>>),
    Signer(SignerStatus),
    Held(Arc<Certificate>),
    /// This is to be held when it is valid; or nothing is any more.
    Waits(Option<Arc<Certificate>>),
    RefusedByServer,
    AskedFor,
    /// An earlier run asked for this.
    Resumed {
        template: Arc<Template>,
        key: Key,
    },
    /// An earlier run, or another policy, left a pace to keep: what was spent before is in it.
    Paced {
        spaced: Millis,
        whole: Millis,
    },
    Submitted {
        id: u64,
        template: Arc<Template>,
    },
    /// The request that was out has ended.
    Closed,
    /// The pending key has had its answer.
    KeySpent,
    /// So many attempts in a row came to this.
    Failed(Failure, u32),
    /// No attempt before one of these.
    Retry(Between),
    /// Earlier failures no longer count.
    Forgiven,
    /// A certificate is to be made durable: the one held, or the one that waits.
    Unwritten(u64, bool),
    WriteAgain(Between),
    WriteSent,
    WriteFailed,
    Durable,
    /// What the API server's clock showed at the beginning of the monotonic clock.
    ServerDated(Millis),
    /// Somebody looked at the clocks: why was a certificate due?
    Looked(Option<Reason>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct History(Vec<(Now, Fact)>);

impl History {
    pub(super) fn push(&mut self, now: Now, fact: Fact) {
        self.0.push((now, fact));
    }

    /// The newest fact that answers a question.
    fn last<'a, T>(&'a self, answer: impl Fn(Millis, &'a Fact) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|(now, fact)| answer(now.instant.as_millis().into(), fact))
    }

    pub(super) fn wanted(&self) -> Option<&Arc<Template>> {
        self.last(|_, fact| if let Fact::Wanted(template) = fact { Some(template.as_ref()) } else { None })?
    }

    pub(super) fn signer(&self) -> SignerStatus {
        let answer = |_, fact: &Fact| if let Fact::Signer(status) = fact { Some(*status) } else { None };
        self.last(answer).unwrap_or(SignerStatus::Absent)
    }

    pub(super) fn held(&self) -> Option<&Arc<Certificate>> {
        self.last(|_, fact| if let Fact::Held(certificate) = fact { Some(certificate) } else { None })
    }

    /// What is to be held when it is valid.
    pub(super) fn waits(&self) -> Option<&Arc<Certificate>> {
        self.last(|_, fact| match fact {
            Fact::Waits(certificate) => Some(certificate.as_ref()),
            Fact::Held(_) => Some(None),
            _ => None,
        })?
    }

    /// What decides whether another one is due.
    pub(super) fn relied_on(&self) -> Option<&Arc<Certificate>> {
        self.waits().or_else(|| self.held())
    }

    /// Whether its server refused the certificate held.
    pub(super) fn refused(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::RefusedByServer => Some(true),
            Fact::Held(_) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }

    /// Whether somebody asked for a new certificate and has not got one.
    pub(super) fn asked_for(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::AskedFor => Some(true),
            Fact::Held(_) | Fact::Waits(Some(_)) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }

    /// The request that is out, and since when.
    pub(super) fn out(&self) -> Option<(u64, Millis)> {
        self.last(|at, fact| match fact {
            Fact::Submitted { id, .. } => Some(Some((*id, at))),
            Fact::Closed => Some(None),
            _ => None,
        })?
    }

    /// What the last request asked for.
    pub(super) fn last_asked(&self) -> Option<&Arc<Template>> {
        self.last(|_, fact| match fact {
            Fact::Submitted { template, .. } | Fact::Resumed { template, .. } => Some(template),
            _ => None,
        })
    }

    /// Whether the pending key has not had its answer.
    pub(super) fn key_is_open(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::Submitted { .. } => Some(true),
            Fact::Resumed { key, .. } => Some(*key == Key::Pending),
            Fact::KeySpent => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }

    /// When the last submission is `spacing` ago.
    pub(super) fn spaced(&self, spacing: Millis) -> Millis {
        let answer = |at, fact: &Fact| match fact {
            Fact::Submitted { .. } => Some(at + spacing),
            Fact::Paced { spaced, .. } => Some(*spaced),
            _ => None,
        };
        self.last(answer).unwrap_or(0)
    }

    /// When every token was spent, newest first. Those of an earlier run or policy count as one, spent late enough.
    pub(super) fn spent(&self, refill: Millis) -> impl Iterator<Item = Millis> {
        let is_paced = |(_, fact): &(Now, Fact)| matches!(fact, Fact::Paced { .. });
        let begin = self.0.iter().rposition(is_paced).unwrap_or(0);
        self.0[begin..].iter().rev().filter_map(move |(now, fact)| match fact {
            Fact::Submitted { .. } => Some(now.instant.as_millis().into()),
            Fact::Paced { whole, .. } => Some(whole - refill),
            _ => None,
        })
    }

    /// Failures that still count: the last one, and how many of its kind in a row.
    pub(super) fn failures(&self) -> Option<(Failure, u32)> {
        let counting = self.0.iter().rev().take_while(|(_, fact)| !matches!(fact, Fact::Forgiven));
        let mut failed = counting.filter_map(|(_, f)| if let Fact::Failed(f, n) = f { Some((*f, *n)) } else { None });
        let (last, n) = failed.next()?;
        let alike = failed.take_while(|(failure, _)| failure.is_refusal() == last.is_refusal());
        Some((last, n + alike.map(|(_, n)| n).sum::<u32>()))
    }

    pub(super) fn retry(&self) -> Between {
        let answer = |_, fact: &Fact| match fact {
            Fact::Retry(between) => Some(*between),
            Fact::Forgiven => Some(ALWAYS),
            _ => None,
        };
        self.last(answer).unwrap_or(ALWAYS)
    }

    /// The certificate that is yet to be made durable: by which name, whether it is the one held, and when it is written
    /// again.
    pub(super) fn unwritten(&self) -> Option<(u64, bool, Between)> {
        let again = self.last(|_, fact| match fact {
            Fact::WriteAgain(between) => Some(*between),
            _ => None,
        });
        let of = self.last(|_, fact| match fact {
            Fact::Unwritten(id, held) => Some(Some((*id, *held))),
            Fact::Durable => Some(None),
            _ => None,
        })?;
        let (id, held) = of?;
        Some((id, held, again?))
    }

    /// Whether a write is under way.
    pub(super) fn is_writing(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::WriteSent => Some(true),
            Fact::WriteFailed | Fact::Durable | Fact::Unwritten(..) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }

    pub(super) fn failed_writes(&self) -> u32 {
        let since = self.0.iter().rev().take_while(|(_, fact)| !matches!(fact, Fact::Unwritten(..)));
        since.map(|(_, fact)| u32::from(matches!(fact, Fact::WriteFailed))).sum()
    }

    /// What the API server's clock showed at the beginning of the monotonic clock, and how many readings in a row say so:
    /// each agrees with the first of them within ten seconds.
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

    /// Why a certificate was due at the last look.
    pub(super) fn last_look(&self) -> Option<Reason> {
        self.last(|_, fact| if let Fact::Looked(reason) = fact { Some(*reason) } else { None })?
    }

    /// Whether the last look found the rotation point of the certificate still held to have passed.
    pub(super) fn was_rotating(&self) -> bool {
        let answer = |_, fact: &Fact| match fact {
            Fact::Looked(reason) => Some(*reason == Some(Reason::RotationPoint)),
            Fact::Held(_) | Fact::Waits(Some(_)) => Some(false),
            _ => None,
        };
        self.last(answer).unwrap_or(false)
    }
}
