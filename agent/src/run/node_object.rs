//! The addresses of the node, as its Node object in the cluster says.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
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

/// How often it is looked at. Addresses change rarely: one small request a minute costs an API server less than one
/// more open watch for each node.
const LOOK: Duration = Duration::from_secs(60);
/// How soon, when it did not work, and when there was nobody to ask as.
const RETRY: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(1);
/// Random part of a wait, so that a fleet that was started together does not keep polling together.
const SPREAD: u32 = 250;

/// What was found last: `None` before the first look.
pub(super) type Found = Latest<Option<Result<Addresses, NotYet>>>;

/// Looks at a Node object again and again, until dropped.
pub(super) struct NodeObject {
    found: Found,
    /// Ends the pause before the next look; dropped, it ends the thread.
    poll: Sender<()>,
}

impl NodeObject {
    /// Looks at the object of this name, as the node itself, and calls `changed` when there is something new.
    pub(super) fn start(
        name: &str,
        cluster: Arc<Cluster>,
        node: NodeIdentity,
        changed: impl Fn() + Send + 'static,
    ) -> Result<Self, Failure> {
        let found = Found::default();
        let (poll, polls) = mpsc::channel();
        let (latest, name) = (found.clone(), name.to_owned());
        let watch = move || {
            for attempt in 0.. {
                let unknown = |why: String| NotYet::new(format!("the addresses of node {name} are not known: {why}"));
                let now = match node.identity() {
                    Ok(asker) => look(&name, &cluster, &node, asker).map_err(unknown),
                    Err(why) if why.is_coming() => Err(why),
                    Err(why) => Err(unknown(why.to_string())),
                };
                let pause = match &now {
                    Ok(_) => LOOK,
                    Err(why) if why.is_coming() => SOON,
                    Err(_) => RETRY,
                };
                if latest.set(Some(now.clone())).as_ref() != Some(&now) {
                    for address in now.iter().flat_map(Addresses::unusable) {
                        tracing::warn!("ignoring an address of node {name}: {address}");
                    }
                    changed();
                }
                match polls.recv_timeout(spread(pause, SPREAD, &name, attempt)) {
                    // However often that was asked for, once is enough.
                    Ok(()) => polls.try_iter().for_each(drop),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        thread::Builder::new()
            .name("node".into())
            .spawn(watch)
            .map_err(|error| Failure::no_thread("the Node object", &error))?;
        Ok(Self { found, poll })
    }

    /// Looks at the object now, not at the end of the pause.
    pub(super) fn poll_now(&self) {
        // Its thread lives as long as this.
        let _ = self.poll.send(());
    }

    /// What it said when last looked at.
    pub(super) fn addresses(&self) -> Option<Result<Addresses, NotYet>> {
        self.found.get()
    }
}

fn look(name: &str, cluster: &Arc<Cluster>, node: &NodeIdentity, asker: Identity) -> Result<Addresses, String> {
    let request = Request::get(format!("/api/v1/nodes/{name}"));
    let call = Call::new(request, cluster.clone(), asker.clone(), Limits::default());
    let answer = drive(call, &Cancel::default(), |_| {}).ok_or("it was given up")?;
    let is_refused = match &answer {
        Ok(answer) => answer.status == 401,
        Err(error) => matches!(error, ExchangeError::CertificateRefused(_)),
    };
    if is_refused {
        node.identity_refused(&asker);
    }
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.status {
        200 => Addresses::of_node(&answer.body).map_err(|error| format!("its object cannot be read: {error}")),
        404 => Err("there is no Node object of that name yet; kubelet makes it, or give --node-ip".into()),
        401 if asker.certificate().is_some() => Err(format!("{cluster} does not accept the certificate of the node")),
        status => Err(format!("{cluster} answers {status} to who asks for its object")),
    }
}
