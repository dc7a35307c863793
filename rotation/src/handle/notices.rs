//! [`Notices`]: a bounded queue of news for each observer of a rotation.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use perennial::RotationMachine;

use super::Handle;
use super::link::Link;
use super::wait::Wait;
use crate::{News, Notice};

/// The queue of one observer: each notice of a rotation in order, from the subscription to the end. A slow observer
/// never delays the rotation: while the queue is full, further notices are dropped, and one [`News::Missed`] takes
/// their place.
///
/// Code that must not miss a change uses the [snapshot](crate::Handle::snapshot) instead.
#[derive(Debug)]
pub struct Notices {
    link: Arc<Link>,
    queue: Arc<Queue>,
    /// True once [`News::Ended`] was taken from the queue.
    is_over: bool,
}

impl Notices {
    pub(crate) fn new(link: Arc<Link>, queue: Arc<Queue>) -> Self {
        Self { link, queue, is_over: false }
    }

    /// Takes the next notice, if one is queued. Does not wait.
    pub fn try_recv(&mut self) -> Option<Notice> {
        let MemberNotice { notice, .. } = self.queue.pop()?;
        self.is_over |= notice.news == News::Ended;
        Some(notice)
    }

    /// Waits for the next notice; `None` after [`News::Ended`], or if the wait times out.
    pub fn recv(&mut self) -> Wait<'_, Option<Notice>> {
        let link = self.link.clone();
        let check = || match self.is_over {
            true => Some(None),
            false => self.try_recv().map(Some),
        };
        Wait::new(move || link.notified.listen(), check, || None)
    }
}

/// A notice of one member of a fleet.
#[derive(Clone)]
#[non_exhaustive]
pub struct MemberNotice {
    /// The handle of the member that the notice is about. [`Handle::name`] is its name.
    pub member: Handle,
    /// The notice.
    pub notice: Notice,
}

/// Member, time and news, without the state of the rotation.
impl fmt::Debug for MemberNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Notice { at, news, .. } = &self.notice;
        let mut shown = f.debug_struct("MemberNotice");
        shown.field("member", &self.member.name()).field("at", at).field("news", news).finish_non_exhaustive()
    }
}

/// The queues of all observers of a rotation or of a fleet. An observer that is dropped drops its queue.
#[derive(Debug, Default)]
pub(crate) struct Queues(Vec<Weak<Queue>>);

impl Queues {
    /// Adds an observer, whose queue has room for `most` notices.
    pub(crate) fn subscribe(&mut self, most: usize) -> Arc<Queue> {
        let queue = Queue::new(most);
        // Observers that are gone leave nothing behind, even if no notice follows for days.
        self.0.retain(|queue| queue.strong_count() > 0);
        self.0.push(Arc::downgrade(&queue));
        queue
    }

    /// Adds notices of this rotation to each queue.
    pub(crate) fn push(&mut self, member: &Handle, notices: &[Notice], machine: &Arc<RotationMachine>) {
        self.0.retain(|queue| {
            let queue = queue.upgrade();
            queue.iter().for_each(|queue| notices.iter().for_each(|notice| queue.push(member, notice, machine)));
            queue.is_some()
        });
    }

    /// The number of queues.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The notices queued for one observer, of one rotation or of many.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Capacity in notices, not counting one [`News::Missed`] for each rotation, and [`News::Ended`].
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<MemberNotice>,
    /// The number of notices taken so far: the number of the first one in the queue.
    taken: u64,
    /// For each rotation whose last notice in the queue is [`News::Missed`], the number of that notice. The key is the
    /// address of the link, which exists as long as the notice.
    missed: HashMap<usize, u64>,
}

impl Queue {
    /// Makes a queue with room for `most` notices, at least one.
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), waiting: Mutex::default() })
    }

    /// Takes the next notice.
    pub(crate) fn pop(&self) -> Option<MemberNotice> {
        let mut waiting = self.waiting();
        let next = waiting.notices.pop_front()?;
        let number = waiting.taken;
        waiting.taken += 1;
        let address = address(&next.member);
        if waiting.missed.get(&address) == Some(&number) {
            waiting.missed.remove(&address);
        }
        Some(next)
    }

    /// Adds a notice of this rotation. While the queue is full, counts the notice as missed instead.
    pub(crate) fn push(&self, member: &Handle, notice: &Notice, machine: &Arc<RotationMachine>) {
        let (mut waiting, member) = (self.waiting(), member.clone());
        let Waiting { notices, taken, missed } = &mut *waiting;
        let address = address(&member);
        // The end is never dropped: observers wait for it.
        if notices.len() < self.most || notice.news == News::Ended {
            missed.remove(&address);
            return notices.push_back(MemberNotice { member, notice: notice.clone() });
        }
        let (mut count, mut steps) = (1, u64::from(matches!(notice.news, News::Stepped(_))));
        // One `Missed` for each gap: merge with the one that is the last notice of this rotation.
        let known = missed.get(&address).and_then(|number| notices.get_mut(usize::try_from(number - *taken).ok()?));
        if let Some(News::Missed { count: before, steps: stepped, .. }) = known.as_ref().map(|last| &last.notice.news) {
            (count, steps) = (count + before, steps + stepped);
        }
        let news = News::Missed { count, steps, machine: machine.clone() };
        let gap = MemberNotice { member, notice: Notice { at: notice.at, news, snapshot: notice.snapshot.clone() } };
        match known {
            Some(known) => *known = gap,
            None => {
                missed.insert(address, *taken + notices.len() as u64);
                notices.push_back(gap);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address of the link of a rotation, which tells the rotation from others while a notice refers to it.
fn address(member: &Handle) -> usize {
    Arc::as_ptr(&member.link).addr()
}
