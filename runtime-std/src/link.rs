//! What a rotation's loop and its handles share: an inbox one way, a snapshot the other.
//!
//! Both can be waited for from threads and from futures alike, so every runtime uses the same.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener, Listener as _};
use perennial::RequestId;
use perennial_kubernetes::client::Issuance;
use perennial_kubernetes::rotation::{Input, Record, Snapshot};
use perennial_rotation::{Health, Progress};

use crate::log;

/// A loop is not woken for less: a server that streams may send any number of pieces a second.
const STILL: Duration = Duration::from_secs(10);

/// What a loop is told.
#[derive(Debug)]
pub enum Message {
    /// Something happened.
    Input(Input),
    /// End, cleanly.
    Stop,
}

/// The inbox and the snapshot.
#[derive(Debug)]
pub struct Link {
    name: String,
    inbox: Mutex<VecDeque<Message>>,
    arrived: Event,
    // A lock, held for a clone: publishing costs the same however many threads the process has.
    snapshot: Mutex<Arc<Snapshot>>,
    changed: Event,
    ended: AtomicBool,
    record: Mutex<Option<Record>>,
}

impl Link {
    /// A link whose handles see this until the loop says otherwise. What is logged about it bears the name.
    pub fn new(name: String, snapshot: Snapshot) -> Self {
        log::start(&name, &snapshot);
        Self {
            name,
            inbox: Mutex::default(),
            arrived: Event::new(),
            snapshot: Mutex::new(Arc::new(snapshot)),
            changed: Event::new(),
            ended: AtomicBool::new(false),
            record: Mutex::default(),
        }
    }

    /// Tells the loop. Never blocks; after the end, nobody listens.
    pub fn send(&self, message: Message) {
        if self.has_ended() {
            return;
        }
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
        self.arrived.notify(1);
    }

    /// The next message, if one is there; else what to wait on before looking again.
    pub fn receive(&self) -> Result<Message, EventListener> {
        if let Some(message) = self.pop() {
            return Ok(message);
        }
        let listener = self.arrived.listen();
        // What arrived before we listened is not missed.
        self.pop().ok_or(listener)
    }

    /// The next message, waiting no longer than `timeout` for one.
    pub fn receive_within(&self, timeout: Option<Duration>) -> Option<Message> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            match self.receive() {
                Ok(message) => return Some(message),
                Err(listener) => wait(listener, until)?,
            }
        }
    }

    /// Shows handles how things are now, if anything but the time has changed.
    pub fn publish(&self, snapshot: Snapshot) {
        let before = self.snapshot();
        let is_reminder = snapshot.expiry_reminders() != before.expiry_reminders();
        if !is_reminder && snapshot == (Snapshot { at: snapshot.at, ..Snapshot::clone(&before) }) {
            return;
        }
        log::report(&self.name, &before, &snapshot);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        self.changed.notify(usize::MAX);
    }

    /// Leaves this to whoever goes on from here. To be called before the end.
    pub fn leave(&self, record: Option<Record>) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
    }

    /// What was left.
    pub(crate) fn record(&self) -> Option<Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells handles that nothing will change any more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify(usize::MAX);
    }

    /// For an exchange's driver: tells the loop whenever its progress changed, or what is known of the server. That it
    /// still answers the same is told, too, every ten seconds at most.
    pub fn reporter(self: &Arc<Self>, id: RequestId) -> impl FnMut(&Issuance) + Send + use<> {
        let (link, mut told) = (self.clone(), None);
        move |exchange| {
            let news = (exchange.progress(), exchange.health());
            if told.as_ref().is_none_or(|told| is_news(told, &news)) {
                told = Some(news.clone());
                let (progress, health) = news;
                link.send(Message::Input(Input::Progressed { id, progress, health }));
            }
        }
    }

    /// Whether the loop has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How things are.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `Some` once `look` is satisfied or the loop has ended; else what to wait on before looking again.
    pub fn watch<T>(&self, mut look: impl FnMut(&Self) -> Option<T>) -> Result<Option<T>, EventListener> {
        let mut once = || {
            // In this order, so that the last snapshot is always looked at.
            let ended = self.has_ended();
            look(self).map(Some).or(ended.then_some(None))
        };
        if let Some(seen) = once() {
            return Ok(seen);
        }
        let listener = self.changed.listen();
        once().ok_or(listener)
    }

    /// Waits until `look` is satisfied; `None` if the loop ends or `timeout` passes first.
    pub fn wait_within<T>(&self, timeout: Option<Duration>, mut look: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            match self.watch(&mut look) {
                Ok(seen) => return seen,
                Err(listener) => wait(listener, until)?,
            }
        }
    }

    fn pop(&self) -> Option<Message> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

type Report = (Progress, Option<Health>);

/// Whether this differs from what was told before in more than the time, or in that by a lot.
fn is_news(told: &Report, news: &Report) -> bool {
    match (told.1, news.1) {
        _ if told.0 != news.0 => true,
        (Some(before), Some(health)) => {
            before.answer != health.answer
                || before.date != health.date
                || health.at.instant.since(before.at.instant) >= STILL
        }
        (before, health) => before != health,
    }
}

/// Ends a link when the last clone of it is gone, be it by a panic: whoever waits learns of it.
#[derive(Clone, Debug)]
pub struct Ending(Arc<EndOnDrop>);

#[derive(Debug)]
struct EndOnDrop(Arc<Link>);

impl Ending {
    /// The end of this link.
    pub fn new(link: Arc<Link>) -> Self {
        Self(Arc::new(EndOnDrop(link)))
    }

    /// The link.
    pub fn link(&self) -> &Arc<Link> {
        &self.0.0
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// `None` if the time passed first.
fn wait(listener: EventListener, until: Option<Instant>) -> Option<()> {
    match until {
        Some(until) => listener.wait_deadline(until),
        None => {
            listener.wait();
            Some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use perennial::Now;
    use perennial_rotation::{Answer, ServerDate};

    use super::*;

    fn report(answer: Answer, seconds: u64) -> Report {
        let at = Now { instant: perennial::Instant::from_millis(seconds * 1000), ..Now::default() };
        (Progress::WaitingForApproval { csr_name: "a".into() }, Some(Health { answer, at, date: None }))
    }

    #[test]
    fn a_server_that_goes_on_answering_is_told_of_now_and_then() {
        // A watch, of which something arrives each second for a minute.
        let (mut told, mut times) = (report(Answer::Served, 0), 0);
        for news in (1..=60).map(|second| report(Answer::Served, second)) {
            if is_news(&told, &news) {
                (told, times) = (news, times + 1);
            }
        }
        assert_eq!((times, told), (6, report(Answer::Served, 60)));
    }

    #[test]
    fn what_is_new_is_told_at_once() {
        let told = report(Answer::Served, 0);
        assert!(!is_news(&told, &told));
        assert!(is_news(&told, &report(Answer::Unreachable, 0)));
        assert!(is_news(&(Progress::Submitting, told.1), &told));
        assert!(is_news(&(told.0.clone(), None), &told));
        let date = Some(ServerDate { unix: Now::default().unix, at: Now::default().instant });
        assert!(is_news(&told, &(told.0.clone(), told.1.map(|health| Health { date, ..health }))));
    }
}
