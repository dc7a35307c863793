//! The addresses of the node, as its Node object in the cluster says.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use perennial_kubernetes::addresses::Addresses;
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::rotation::IdentitySource;
use perennial_std::{Cancel, drive};

use crate::failure::Failure;

/// How often it is looked at. Addresses change rarely: one small request a minute costs an API server less than one
/// more open watch for each node.
const LOOK: Duration = Duration::from_secs(60);
/// How soon, when it did not work.
const RETRY: Duration = Duration::from_secs(10);

/// What was found last: `None` before the first look.
pub(super) type Found = Arc<Mutex<Option<Result<Addresses, String>>>>;

/// Looks at a Node object again and again, until dropped.
pub(super) struct NodeObject {
    found: Found,
    _ends_with_us: Sender<()>,
}

impl NodeObject {
    /// Looks at the object of this name, as `user`, and calls `changed` when there is something new.
    pub(super) fn watch(
        name: &str,
        cluster: Arc<Cluster>,
        user: IdentitySource,
        changed: impl Fn() + Send + 'static,
    ) -> Result<Self, Failure> {
        let found = Found::default();
        let (ends, ended) = mpsc::channel();
        let (latest, name) = (found.clone(), name.to_owned());
        let watch = move || {
            loop {
                let now = look(&name, &cluster, &user);
                let pause = if now.is_ok() { LOOK } else { RETRY };
                let before = latest.lock().unwrap_or_else(PoisonError::into_inner).replace(now.clone());
                if before != Some(now) {
                    changed();
                }
                if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        thread::Builder::new().name("node".into()).spawn(watch).map_err(Failure::failed)?;
        Ok(Self { found, _ends_with_us: ends })
    }

    /// What it said when last looked at.
    pub(super) fn addresses(&self) -> Option<Result<Addresses, String>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn look(name: &str, cluster: &Arc<Cluster>, user: &IdentitySource) -> Result<Addresses, String> {
    let cannot = |why: String| format!("the addresses of node {name} are not known: {why}");
    let request = Request::get(format!("/api/v1/nodes/{name}"));
    let call = Call::new(request, cluster.clone(), user().map_err(cannot)?, Limits::default());
    let answer = drive(call, &Cancel::default(), |_| {}).ok_or_else(|| cannot("cancelled".into()))?;
    let answer = answer.map_err(|error| cannot(error.to_string()))?;
    match answer.status {
        200 => Addresses::of_node(&answer.body).map_err(|error| cannot(format!("its object cannot be read: {error}"))),
        404 => Err(cannot("there is no Node object of that name yet; kubelet makes it, or give --node-ip".into())),
        status => Err(cannot(format!("{cluster} answers {status} to who asks for its object"))),
    }
}
