//! [`Notices`]: a bounded queue of news for each observer of a rotation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::RotationMachine;

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
        let notice = self.queue.waiting().pop_front()?;
        self.is_over |= notice.news == News::Ended;
        Some(notice)
    }

    /// Waits for the next notice; `None` after [`News::Ended`], or if the wait times out.
    pub fn recv(&mut self) -> Wait<'_, Option<Notice>> {
        let notified = self.link.notified.clone();
        let check = || match self.is_over {
            true => Some(None),
            false => self.try_recv().map(Some),
        };
        Wait::new(&notified, check, || None)
    }
}

/// The notices queued for one observer, shared by its [`Notices`] and the link.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Capacity in notices, not counting [`News::Missed`] and [`News::Ended`].
    most: usize,
    waiting: Mutex<VecDeque<Notice>>,
}

impl Queue {
    /// Makes a queue with room for `most` notices, at least one.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), waiting: Mutex::default() })
    }

    pub(crate) fn push(&self, notice: &Notice, machine: &Arc<RotationMachine>) {
        let mut waiting = self.waiting();
        // The end is never dropped: observers wait for it.
        if waiting.len() < self.most || notice.news == News::Ended {
            return waiting.push_back(notice.clone());
        }
        let (mut count, mut steps) = (1, u64::from(matches!(notice.news, News::Stepped(_))));
        // One `Missed` for each gap: merge with the one just before.
        if let Some(News::Missed { count: before, steps: stepped, .. }) = waiting.back().map(|last| &last.news) {
            (count, steps) = (count + before, steps + stepped);
            waiting.pop_back();
        }
        let news = News::Missed { count, steps, machine: machine.clone() };
        waiting.push_back(Notice { at: notice.at, news, snapshot: notice.snapshot.clone() });
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Notice>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
