//! Polls the Node object of the cluster for the node's addresses.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use perennial_kubernetes::addresses::Addresses;
use perennial_kubernetes::client::{Call, ExchangeError, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_rotation::{Identity, IdentitySource as _, NotYet};
use perennial_std::{Cancel, drive};

use super::node::NodeIdentity;
use crate::failure::Failure;
use crate::latest::Latest;
use crate::spans::spread;
use crate::threads;

/// Interval between polls. Addresses change rarely: a small request a minute costs an API server less than an open
/// watch per node.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
/// Wait after a failed poll.
const RETRY: Duration = Duration::from_secs(10);
/// Wait while the client certificate, which authenticates the poll, does not exist yet.
const IDENTITY_RETRY: Duration = Duration::from_secs(1);
/// Largest deviation of a wait from its mean, in permille of the mean. Nodes that were started together do not poll
/// together.
const SPREAD: u32 = 250;

/// The result of the last poll of the Node object; `None` before the first poll.
pub(super) type LastPoll = Latest<Option<Result<Addresses, NotYet>>>;

/// The thread that polls a Node object. Dropping this ends the thread.
pub(super) struct NodeObject {
    found: LastPoll,
    /// The channel to the thread. A message makes the thread poll at once, and the thread ends when this sender is
    /// dropped.
    poll: Sender<()>,
}

impl NodeObject {
    /// Starts a thread that polls the Node object `name` with the identity `node`. The thread calls `changed` after
    /// each poll whose result differs from the result before.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(
        name: &str,
        cluster: Arc<Cluster>,
        node: NodeIdentity,
        changed: impl Fn() + Send + 'static,
    ) -> Result<Self, Failure> {
        let found = LastPoll::default();
        let (poll, polls) = mpsc::channel();
        let (latest, name) = (found.clone(), name.to_owned());
        let watch = move || {
            for attempt in 0.. {
                let unknown = |why: String| NotYet::new(format!("the addresses of node {name} are not known: {why}"));
                let now = match node.identity() {
                    Ok(identity) => read_addresses(&name, &cluster, &node, identity).map_err(unknown),
                    Err(why) if why.is_coming() => Err(why),
                    Err(why) => Err(unknown(why.to_string())),
                };
                let pause = match &now {
                    Ok(_) => POLL_INTERVAL,
                    Err(why) if why.is_coming() => IDENTITY_RETRY,
                    Err(_) => RETRY,
                };
                if latest.set(Some(now.clone())).as_ref() != Some(&now) {
                    for address in now.iter().flat_map(Addresses::unusable) {
                        tracing::warn!("ignoring an address of node {name}: {address}");
                    }
                    changed();
                }
                match polls.recv_timeout(spread(pause, SPREAD, &name, attempt)) {
                    // One poll serves all requests that have come.
                    Ok(()) => polls.try_iter().for_each(drop),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        threads::start("node", "the Node object", watch)?;
        Ok(Self { found, poll })
    }

    /// Polls at once instead of after the pause.
    pub(super) fn poll_now(&self) {
        // An error would mean that the thread has ended, which it does only when this is dropped.
        let _ = self.poll.send(());
    }

    /// The addresses at the last poll, or its error; `None` before the first poll.
    pub(super) fn addresses(&self) -> Option<Result<Addresses, NotYet>> {
        self.found.get()
    }
}

/// Reads the Node object once, with the identity `identity`. Reports to `node` if the server refuses the identity.
fn read_addresses(
    name: &str,
    cluster: &Arc<Cluster>,
    node: &NodeIdentity,
    identity: Identity,
) -> Result<Addresses, String> {
    let request = Request::get(format!("/api/v1/nodes/{name}"));
    let call = Call::new(request, cluster.clone(), identity.clone(), Limits::default());
    let answer = drive(call, &Cancel::default(), |_| {}).ok_or("reading the Node object was cancelled")?;
    let is_refused = match &answer {
        Ok(answer) => answer.status == 401,
        Err(error) => matches!(error, ExchangeError::CertificateRefused(_)),
    };
    if is_refused {
        node.identity_refused(&identity);
    }
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.status {
        200 => Addresses::of_node(&answer.body).map_err(|error| format!("the Node object cannot be decoded: {error}")),
        404 => Err("there is no Node object of that name yet: wait for kubelet to create it, or give --node-ip".into()),
        401 if identity.certificate().is_some() => Err(format!("{cluster} refused the client certificate of the node")),
        status => Err(format!("{cluster} answered {status} when perennial read the Node object")),
    }
}
