//! The condition of a certificate in a few words, and the order in which the page shows certificates.

use perennial::{Now, Reason, State};

use super::super::view::CertView;
use crate::hook_debt::Debt;

/// How urgently a certificate needs a person, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// A person should act.
    Trouble,
    /// A person should act if this lasts, or has to approve a request.
    Attention,
    Good,
}

impl Level {
    /// The level's class in the style sheet.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Trouble => "trouble",
            Self::Attention => "attention",
            Self::Good => "good",
        }
    }
}

/// The condition of a certificate: its level, and words for people.
pub(super) type Condition = (Level, &'static str);

/// Returns the condition of a certificate at the time `now`: the gravest one that applies. `debt` is the certificate's
/// debt of `--on-rotated`; `None` without the flag.
pub(super) fn condition(view: &CertView, debt: Option<&Debt>, now: Now) -> Condition {
    use Level::{Attention, Good, Trouble};
    let validity = view.certificate().map(|certificate| certificate.validity);
    let is_off = view.snapshot.as_ref().is_none_or(|snapshot| snapshot.state == State::NotEnabled);
    let due = view.snapshot.as_ref().and_then(|snapshot| snapshot.due);
    // Without rotation, another program has to replace the certificate.
    let is_rotated = due.is_some() && !is_off;
    let owed = debt.filter(|debt| debt.owed.is_some());
    let conditions = [
        (validity.is_none(), (Trouble, "no certificate")),
        (validity.is_some_and(|validity| validity.expired(now.unix)), (Trouble, "expired")),
        (due == Some(Reason::Refused), (Trouble, "refused by the server")),
        (view.unwritten_since().is_some() && view.trouble.is_some(), (Trouble, "not written")),
        (is_rotated && view.trouble.is_some(), (Trouble, "rotation fails")),
        (owed.is_some_and(|owed| owed.failed().is_some()), (Trouble, "hook fails")),
        (view.trouble.is_some(), (Attention, "problem")),
        (view.approvable().is_some(), (Attention, "waits for approval")),
        (view.unwritten_since().is_some(), (Attention, "being written")),
        (owed.is_some(), (Attention, "hook not run yet")),
        (validity.is_some_and(|validity| validity.not_before() > now.unix), (Attention, "not valid yet")),
        (is_rotated, (Attention, "being rotated")),
        (is_off, (Good, "externally managed")),
    ];
    conditions.into_iter().find_map(|(applies, condition)| applies.then_some(condition)).unwrap_or((Good, "good"))
}
