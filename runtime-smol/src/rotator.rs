//! One future for each rotated certificate.

use std::sync::Arc;

use perennial::{Instant, Policy, RequestId, Template};
use perennial_kubernetes::rotation::{Duty, Input, Rotation, Signer, Snapshot, Step};
use perennial_pki::Credential;
use perennial_std::link::{Ending, Link, Message};
use perennial_std::{Directory, DirectoryError, DiskWorker, Left};
use smol::future::{self, Boxed, FutureExt as _};

use crate::drive::{drive, sleep_until};
use crate::handle::Handle;

/// What is to be rotated, and how. Everything is optional: without a signer or a template, what the
/// store holds is served as it is; without a store, a credential lives as long as the process.
#[derive(Debug, Default)]
pub struct Rotator(perennial_std::Rotator);

impl Rotator {
    /// Nothing yet, with the default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it is called in logs, in a process that rotates more than one.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self(self.0.name(name))
    }

    /// The numbers to go by.
    #[must_use]
    pub fn policy(self, policy: Policy) -> Self {
        Self(self.0.policy(policy))
    }

    /// The identity wanted. It can be given, or changed, later.
    #[must_use]
    pub fn template(self, template: Template) -> Self {
        Self(self.0.template(template))
    }

    /// For whom, if the template comes later: rotation points are drawn from it, and a restart must draw the same.
    #[must_use]
    pub fn common_name(self, name: impl Into<String>) -> Self {
        Self(self.0.common_name(name))
    }

    /// Who to ask.
    #[must_use]
    pub fn signer(self, signer: Signer) -> Self {
        Self(self.0.signer(signer))
    }

    /// This looks on, from the first step: for logs, metrics, a journal. One more with each call.
    #[must_use]
    pub fn observer(self, observer: impl FnMut(&Step<'_>) + Send + 'static) -> Self {
        Self(self.0.observer(observer))
    }

    /// Goes on from where an earlier rotation of this process ended: what it served is served, and written as soon as
    /// that can be done if the store does not hold it; of what somebody else has put there meanwhile, the better one is
    /// used. What it had asked for is gone on with. Told before the [`store`](Self::store), the store's faults are logged,
    /// and do not end what has begun.
    #[must_use]
    pub fn resume(self, left: Left) -> Self {
        Self(self.0.resume(left))
    }

    /// Where the credential is kept, and the record of what was asked last. It is put right if it is damaged, which is
    /// logged; the best pair it holds is what the rotation starts from.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn store(self, store: impl Into<Arc<Directory>>) -> Result<Self, DirectoryError> {
        self.0.store(store).map(Self)
    }

    /// What the rotation starts with.
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.0.credential()
    }

    /// The handle, and the future to spawn: nothing happens unless it is polled. It ends after
    /// [`Handle::shutdown`]; dropping it ends the rotation too, at whatever point it is.
    #[must_use = "the future has to be spawned"]
    pub fn start(self) -> (Handle, impl Future<Output = ()> + Send + use<>) {
        let (rotation, store, link) = self.0.into_parts();
        let handle = Handle::new(perennial_std::Handle::new(link.clone()));
        (handle, run(rotation, store, Ending::new(link)))
    }
}

async fn run(mut rotation: Rotation, store: Option<Arc<Directory>>, ending: Ending) {
    let link = ending.link().clone();
    let mut disk = DiskWorker::new(store, ending);
    let mut exchange: Option<(RequestId, Boxed<Input>)> = None;
    loop {
        let deadline = rotation.deadline().into_iter().chain(disk.deadline()).min();
        let input = match next(&link, deadline, &mut exchange).await {
            Message::Input(input) => input,
            Message::Stop => break,
        };
        disk.note(&input);
        let duties = rotation.handle(input, perennial_std::clock::now());
        // What is accepted is served at once, and written after that.
        link.publish(rotation.snapshot(perennial_std::clock::now()));
        for duty in duties {
            match duty {
                Duty::Drop { id } => {
                    disk.drop_held(id);
                    exchange.take_if(|(live, _)| *live == id);
                }
                Duty::Write { id, credential, serve } => disk.write(id, credential, serve),
                Duty::Save { record } => disk.save(record),
                Duty::Drive { id, exchange } => disk.hold(id, exchange),
                // The loop reads the deadline instead.
                Duty::SetTimer(_) => {}
            }
        }
        if let Some((id, conversation)) = disk.ready() {
            let report = link.reporter(id);
            let driven = async move { Input::Finished { id, result: drive(*conversation, report).await } };
            exchange = Some((id, driven.boxed()));
        }
    }
    drop(exchange);
    let mut message = None;
    while !disk.finish(&mut rotation, message) {
        message = Some(receive(&link).await);
    }
    link.leave(rotation.record(perennial_std::clock::now()));
    let last = rotation.snapshot(perennial_std::clock::now());
    link.publish(Snapshot { unwritten: last.unwritten && !disk.wrote_at_the_end(), ..last });
}

/// What happens first: a message, the end of the exchange, or the deadline.
async fn next(link: &Link, deadline: Option<Instant>, exchange: &mut Option<(RequestId, Boxed<Input>)>) -> Message {
    let message = receive(link);
    let finished = async {
        match exchange {
            Some((_, driven)) => Message::Input(driven.await),
            None => future::pending().await,
        }
    };
    let due = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => future::pending().await,
        }
        Message::Input(Input::Tick)
    };
    let message = message.or(finished).or(due).await;
    if matches!(message, Message::Input(Input::Finished { .. })) {
        *exchange = None;
    }
    message
}

async fn receive(link: &Link) -> Message {
    loop {
        match link.receive() {
            Ok(message) => return message,
            Err(arrival) => arrival.await,
        }
    }
}
