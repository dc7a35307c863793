//! A member of the list, and the phase of its life.

use perennial::Instant;
use perennial_rotation::Handle;

use super::member::Active;
use super::starter::StartId;
use super::summary::Activity;
use crate::certificates::Member;
use crate::metrics::{BlockedOn, Source};

/// A member of the list.
pub(super) struct Slot {
    pub(super) member: Member,
    pub(super) phase: Phase,
    /// The reason why the member could not start, for metrics; empty if it runs.
    pub(super) blocked_on: BlockedOn,
}

/// The phase of a member's life.
pub(super) enum Phase {
    /// The member's start is due.
    Due,
    /// A thread starts the member.
    Starting(StartId),
    /// The member could not start, and will be started again at this time.
    Failed {
        why: String,
        retry_at: Instant,
    },
    Running(Box<Active>),
}

impl Slot {
    pub(super) fn new(member: Member) -> Self {
        Self { member, phase: Phase::Due, blocked_on: BlockedOn::default() }
    }

    pub(super) fn active(&self) -> Option<&Active> {
        if let Phase::Running(active) = &self.phase { Some(active) } else { None }
    }

    pub(super) fn active_mut(&mut self) -> Option<&mut Active> {
        if let Phase::Running(active) = &mut self.phase { Some(active) } else { None }
    }

    pub(super) fn handle(&self) -> Option<&Handle> {
        self.active().map(|active| active.reporter.rotation.handle())
    }

    pub(super) fn activity(&self) -> Activity {
        match &self.phase {
            Phase::Due | Phase::Starting(_) => Activity::Waiting,
            Phase::Failed { .. } => Activity::Failing,
            Phase::Running(active) if active.is_unpublished() => Activity::Failing,
            Phase::Running(active) => active.reporter.activity(),
        }
    }

    /// The source of the certificate's state, for metrics.
    pub(super) fn source(&self) -> Source {
        self.active().map_or_else(|| Source::Starting(self.blocked_on.clone()), |active| active.source())
    }
}
