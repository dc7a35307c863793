//! [`Link`]: the state that the loop of a rotation and its handles share. Handles send messages to the loop; the loop
//! publishes snapshots and notices.
//!
//! Threads and futures can wait on a link, so that one type serves every runtime.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use event_listener::Event;
use perennial::{MemberKey, RotationMachine, State};

use super::Handle;
use super::notices::{Queue, Queues};
use crate::fleet::hub::{FleetEnding, Hub};
use crate::{Input, News, Notice, Snapshot, clock, log};

/// A message to the loop of a rotation.
#[derive(Debug)]
pub(crate) enum Message {
    /// An input for the rotation.
    Input(Input),
    /// A report of the exchange with this number. Ignored once the runtime drives another exchange, even for the same
    /// request.
    Reported(u64, Input),
    /// Ends the loop, after a last attempt to write a credential that is not durable.
    Stop,
}

/// The state that the loop and the handles of one rotation share.
#[derive(Debug)]
pub(crate) struct Link {
    name: Box<str>,
    /// The fleet that this rotation is a member of.
    hub: Option<Arc<Hub>>,
    inbox: Mutex<Inbox>,
    /// Notified when a message for the loop of this rotation arrives. The loop of a fleet waits for an event of its
    /// [`Hub`] instead.
    pub(crate) arrived: Event,
    // A mutex, held only for a clone: publishing costs the same however many threads read.
    shown: Mutex<Shown>,
    /// Notified when the snapshot changes, and when the rotation ends.
    pub(crate) changed: Event,
    /// Notified when a notice is queued, and when the rotation ends.
    pub(crate) notified: Event,
}

/// Messages that the loop has not handled yet.
#[derive(Debug)]
struct Inbox {
    messages: VecDeque<Message>,
    /// The key of this member of a fleet, for the list of members with messages; `None` until the loop of the fleet
    /// has taken the member over.
    member: Option<MemberKey>,
    /// True if the rotation will have a signer once the loop has handled the queued messages.
    has_signer: bool,
}

/// The addresses of a waker's data and functions. Equal for two wakers if one [will wake](Waker::will_wake) the task of
/// the other.
type WakerKey = (usize, usize);

fn waker_key(waker: &Waker) -> WakerKey {
    (waker.data().addr(), ptr::from_ref(waker.vtable()).addr())
}

/// The published state of the rotation, which handles and observers see.
#[derive(Debug)]
struct Shown {
    snapshot: Arc<Snapshot>,
    machine: Arc<RotationMachine>,
    observers: Option<Box<Observers>>,
    ended: bool,
}

/// The observers of one rotation.
#[derive(Debug, Default)]
struct Observers {
    queues: Queues,
    /// Wakers of other rotations. The requests of those rotations authenticate with the certificate of this rotation,
    /// and wait until there is one. All members of a fleet may be among them, and register again at each poll.
    dependents: BTreeMap<WakerKey, Waker>,
}

impl Link {
    /// Makes a link whose handles see `snapshot` until the loop publishes another. Log lines begin with `name`.
    pub(crate) fn new(name: String, snapshot: Snapshot, machine: Arc<RotationMachine>, hub: Option<Arc<Hub>>) -> Self {
        let has_signer = snapshot.state != State::NotEnabled;
        let shown = Shown { snapshot: Arc::new(snapshot), machine, observers: None, ended: false };
        Self {
            name: name.into(),
            arrived: Event::new(),
            hub,
            inbox: Mutex::new(Inbox { messages: VecDeque::new(), member: None, has_signer }),
            shown: Mutex::new(shown),
            changed: Event::new(),
            notified: Event::new(),
        }
    }

    /// Queues a message for the loop, without waiting for the loop. Does nothing after the end of the rotation.
    pub(crate) fn send(&self, message: Message) {
        if self.has_ended() {
            return;
        }
        let mut inbox = self.inbox();
        // Set under the lock of the messages, so that `Handle::ready` waits if a signer was set just before.
        if let Message::Input(Input::SignerChanged(signer)) = &message {
            inbox.has_signer = signer.is_some();
        }
        // The loop handles all messages of a member: only the first one has to announce the member.
        let member = inbox.member.filter(|_| inbox.messages.is_empty());
        inbox.messages.push_back(message);
        drop(inbox);
        match &self.hub {
            Some(hub) => member.into_iter().for_each(|member| hub.announce(member)),
            None => notify(&self.arrived),
        }
    }

    /// Sets the key by which the loop of the fleet knows this member, and announces messages that have arrived before.
    pub(crate) fn join(&self, member: MemberKey) {
        let mut inbox = self.inbox();
        inbox.member = Some(member);
        let has_messages = !inbox.messages.is_empty();
        drop(inbox);
        if let Some(hub) = self.hub.as_ref().filter(|_| has_messages) {
            hub.announce(member);
        }
    }

    /// The name of the certificate in logs; may be empty.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Logs the news, replaces the snapshot that handles see, and queues the news as notices for observers.
    pub(crate) fn publish(self: &Arc<Self>, snapshot: Snapshot, machine: &Arc<RotationMachine>, news: Vec<News>) {
        let (at, before) = (snapshot.at, self.snapshot());
        // A change of the time alone must not wake every wait at every Tick.
        let is_changed = !snapshot.differs_only_in_time(&before);
        let snapshot = if is_changed { Arc::new(snapshot) } else { before };
        let notices = news.into_iter().map(|news| Notice { at, news, snapshot: snapshot.clone() });
        // Before taking the lock: subscribers of `tracing` are foreign code, and may call a handle, or panic.
        let log = |notice: &Notice| contain(|| log::line(&self.name, notice));
        let notices: Vec<Notice> = notices.inspect(log).collect();
        let mut shown = self.shown();
        // Snapshot and notices change under one lock: a reader of a notice sees a snapshot at least as new, and a
        // reader of a snapshot finds its notices queued.
        (shown.snapshot, shown.machine) = (snapshot, machine.clone());
        self.queue(&mut shown, &notices);
        drop(shown);
        if is_changed {
            self.notify_changed();
        }
        if !notices.is_empty() {
            notify(&self.notified);
        }
    }

    /// Adds an observer, whose queue has room for `most` notices. After the end of the rotation, the queue contains
    /// [`News::Ended`] only.
    pub(crate) fn subscribe(self: &Arc<Self>, most: usize) -> Arc<Queue> {
        let mut shown = self.shown();
        let queue = shown.observers.get_or_insert_default().queues.subscribe(most);
        if shown.ended {
            queue.push(&Handle::new(self.clone()), &shown.end(), &shown.machine);
        }
        queue
    }

    /// Marks the end of the rotation, and wakes all waits.
    pub(crate) fn end(self: &Arc<Self>) {
        // Under the lock that `subscribe` takes: each observer gets `Ended` exactly once.
        let mut shown = self.shown();
        shown.ended = true;
        let end = shown.end();
        self.queue(&mut shown, &[end]);
        drop(shown);
        self.notify_changed();
        notify(&self.notified);
    }

    /// Adds notices to the queue of each observer of this rotation and of its fleet. Never waits for an observer.
    fn queue(self: &Arc<Self>, shown: &mut Shown, notices: &[Notice]) {
        let member = Handle::new(self.clone());
        let Shown { observers, machine, .. } = shown;
        observers.iter_mut().for_each(|observers| observers.queues.push(&member, notices, machine));
        if let Some(hub) = &self.hub {
            hub.queue(&member, notices, machine);
        }
    }

    fn notify_changed(&self) {
        notify(&self.changed);
        // Taken out of the lock first: wakers are foreign code. A panic of one must not keep the others from being
        // woken.
        let dependents = self.shown().observers.as_mut().map(|observers| std::mem::take(&mut observers.dependents));
        dependents.into_iter().flatten().for_each(|(_, waker)| contain(|| waker.wake()));
    }

    /// Registers `waker`. It is woken once: when the snapshot changes, or when the rotation ends. Does nothing after the
    /// end.
    pub(crate) fn wake_on_change(&self, waker: &Waker) {
        let mut shown = self.shown();
        if shown.ended {
            return;
        }
        let dependents = &mut shown.observers.get_or_insert_default().dependents;
        dependents.entry(waker_key(waker)).or_insert_with(|| waker.clone());
    }

    /// Removes a waker that [`wake_on_change`](Self::wake_on_change) has registered.
    pub(crate) fn forget(&self, waker: &Waker) {
        if let Some(observers) = &mut self.shown().observers {
            observers.dependents.remove(&waker_key(waker));
        }
    }

    /// The number of wakers that wait for the next change.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.shown().observers.as_ref().map_or(0, |observers| observers.dependents.len())
    }

    /// True once the rotation has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.shown().ended
    }

    /// The latest snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.shown().snapshot.clone()
    }

    /// The machine as it was when the latest snapshot was published.
    pub(crate) fn machine(&self) -> Arc<RotationMachine> {
        self.shown().machine.clone()
    }

    /// Removes and returns the next message, if there is one.
    pub(crate) fn pop(&self) -> Option<Message> {
        let messages = &mut self.inbox().messages;
        let message = messages.pop_front();
        if messages.is_empty() {
            // An idle rotation owns no spare capacity.
            *messages = VecDeque::new();
        }
        message
    }

    /// True if a message is queued.
    pub(crate) fn has_messages(&self) -> bool {
        !self.inbox().messages.is_empty()
    }

    /// True if the rotation will have a signer once the loop has handled the queued messages.
    pub(crate) fn has_signer(&self) -> bool {
        self.inbox().has_signer
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notifies all waits of this event. Without a wait, the event allocates nothing. No wait is missed: a wait is listed
/// before it checks the state, and the state changes under a lock before this call.
pub(crate) fn notify(event: &Event) {
    if event.total_listeners() > 0 {
        event.notify(usize::MAX);
    }
}

/// Calls code of another party, such as a waker, a log subscriber or the drop of a signer. Ignores a panic of that code,
/// since the panic hook has reported the panic already.
pub(crate) fn contain(call: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(call));
}

impl Shown {
    fn end(&self) -> Notice {
        Notice { at: clock::now(), news: News::Ended, snapshot: self.snapshot.clone() }
    }
}

/// A link is the waker of requests that wait for an identity. If two rotations wait for each other's identity, each has
/// the other as a dependent, but only until one of them ends.
impl Wake for Link {
    fn wake(self: Arc<Self>) {
        self.send(Message::Input(Input::IdentityChanged));
    }
}

/// Guard that marks the rotation as ended when its last clone is dropped, also by a panic.
#[derive(Clone, Debug)]
pub(crate) struct Ending(Arc<EndOnDrop>);

#[derive(Debug)]
struct EndOnDrop {
    link: Arc<Link>,
    /// Dropped after the end of this rotation: the fleet ends after its members.
    _fleet: Option<FleetEnding>,
}

impl Ending {
    /// Makes the guard that ends this link, and then no longer keeps `fleet` from ending.
    pub(crate) fn new(link: Arc<Link>, fleet: Option<FleetEnding>) -> Self {
        Self(Arc::new(EndOnDrop { link, _fleet: fleet }))
    }

    /// The link that this guard ends.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0.link
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.link.end();
    }
}

#[cfg(test)]
mod tests {
    use std::future;
    use std::sync::Arc;
    use std::time::Duration;

    use perennial::{Now, State, Template};
    use perennial_pki::interim;

    use crate::{Authentication, Memory, Rotator, SignWith, Store as _, clock};

    #[test]
    fn dropped_observers_leave_no_queue_behind() {
        let (handle, _task) = Rotator::new().prepare().unwrap();
        let _kept = handle.notices(10);
        (0..100).for_each(|_| drop(handle.notices(10)));
        let _last = handle.notices(10);
        assert_eq!(handle.link.shown().observers.as_ref().unwrap().queues.len(), 2);
    }

    #[test]
    fn only_requests_that_wait_for_an_identity_leave_a_waker_and_leave_it_once() {
        for has_identity in [true, false] {
            let (store, template) = (Memory::default(), Template::new("node-1"));
            if has_identity {
                let now = clock::now().unix;
                store.write(&Arc::new(interim(&template, now).unwrap()), true, now).unwrap();
            }
            let (node, _task) = Rotator::new().template(template).store(store).prepare().unwrap();
            let signer = || {
                let signer = SignWith::future("example.com/mesh", |_| future::pending());
                signer.authentication(Authentication::other(node.clone()))
            };
            for _ in 0..3 {
                let rotator = Rotator::new().template(Template::new("mesh-1")).signer(signer());
                let (handle, mut task) = rotator.prepare().unwrap();
                let begin = clock::now();
                for seconds in [0, 1, 3, 7] {
                    let span = Duration::from_secs(seconds);
                    drop(task.step(Now { instant: begin.instant.after(span), unix: begin.unix.after(span) }));
                }
                assert_eq!(matches!(handle.state(), State::Requesting { .. }), has_identity);
            }
            assert_eq!(node.link.waiting(), if has_identity { 0 } else { 3 });
        }
    }
}
