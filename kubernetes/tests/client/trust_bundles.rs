//! The CAs that a cluster publishes as ClusterTrustBundles: a list, watches that follow it, and what their errors change.

mod damage;
mod selection;
mod watches;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use perennial::Now;
use perennial_kubernetes::client::Limits;
use perennial_kubernetes::{BundleSelection, BundleState, BundleWatch, TrustBundles};
use perennial_rotation::{Conversation, Identity, IdentitySource, IoEvent, IoRequest, RootsSource as _};
use serde_json::{Value, json};

const MESH: &str = "example.com/mesh";

/// A watch that ends once `ends` returns true, so that it can be driven to an end.
struct Until<'a> {
    watch: BundleWatch,
    ends: Box<dyn FnMut(Now) -> bool + 'a>,
}

impl Conversation for Until<'_> {
    type Outcome = ();

    fn handle(&mut self, input: IoEvent<'_>, now: Now) {
        self.watch.handle(input, now);
    }

    fn poll(&mut self, now: Now) -> IoRequest<()> {
        let step = self.watch.poll(now);
        if (self.ends)(now) {
            return IoRequest::Done(());
        }
        match step {
            IoRequest::Connect { host, port, until } => IoRequest::Connect { host, port, until },
            IoRequest::Transmit { bytes, until } => IoRequest::Transmit { bytes, until },
            IoRequest::Receive { until } => IoRequest::Receive { until },
            IoRequest::Disconnect => IoRequest::Disconnect,
            IoRequest::Keep(kept) => IoRequest::Keep(kept),
            IoRequest::Reuse(kept) => IoRequest::Reuse(kept),
            IoRequest::Wait { until } => IoRequest::Wait { until },
            IoRequest::Done(never) => match never {},
        }
    }
}

/// A node that reads the bundles of a selection.
struct Reader {
    scene: Scene,
    bundles: TrustBundles,
    identity: Arc<dyn IdentitySource>,
}

impl Reader {
    fn new() -> Self {
        Self::of(BundleSelection::of_signer(MESH))
    }

    fn of(selection: BundleSelection) -> Self {
        let identity = Arc::new(Identity::Anonymous);
        Self { scene: Scene::new(), bundles: TrustBundles::new(selection), identity }
    }

    /// Reads the bundles from a server that answers by `script`, until `ends` returns true for a state.
    fn until<'a>(
        &self,
        script: impl FnMut(&ReceivedRequest) -> Reply + 'a,
        ends: impl Fn(&BundleState) -> bool,
    ) -> World<'a> {
        let mut world = self.scene.world(script);
        self.run(&mut world, |_, state| ends(state));
        world
    }

    /// Reads the bundles from a server that answers by `script`, for `span`.
    fn lasting<'a>(&self, span: Duration, script: impl FnMut(&ReceivedRequest) -> Reply + 'a) -> World<'a> {
        let mut world = self.scene.world(script);
        let until = world.now.instant.after(span);
        self.run(&mut world, |now, _| now.instant >= until);
        world
    }

    fn run(&self, world: &mut World<'_>, ends: impl Fn(Now, &BundleState) -> bool) {
        let watch = self.bundles.watch(self.scene.cluster(), self.identity.clone(), Limits::default(), 7);
        let ends = Box::new(|now| ends(now, &self.bundles.state()));
        world.run(&mut Until { watch, ends });
    }

    /// The subjects of the trusted CAs, sorted.
    fn trusted(&self) -> BTreeSet<String> {
        self.bundles.roots().map_or_else(|_| BTreeSet::new(), |roots| roots.subjects().collect())
    }
}

fn subjects<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(|name| format!("CN={name}")).into()
}

fn bundle_of(signer: &str, name: &str, pem: &str) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "ClusterTrustBundle",
        "metadata": { "name": name, "uid": "uid-1", "resourceVersion": "100" },
        "spec": { "signerName": signer, "trustBundle": pem },
    })
}

fn bundle(name: &str, pem: &str) -> Value {
    bundle_of(MESH, name, pem)
}

fn list(version: &str, items: &[Value]) -> Reply {
    let list = json!({ "kind": "ClusterTrustBundleList", "metadata": { "resourceVersion": version }, "items": items });
    Reply::json(200, list.to_string())
}

/// A server with these bundles. Answers the n-th watch, counted from 0, with `nth(n)`; the others stay open.
fn server<'a>(
    items: Vec<Value>,
    mut nth: impl FnMut(usize) -> Reply + 'a,
) -> impl FnMut(&ReceivedRequest) -> Reply + 'a {
    let mut watches = 0;
    move |request| match request.is_watch() {
        false => list("120", &items),
        true => {
            watches += 1;
            nth(watches - 1)
        }
    }
}

fn pem(name: &str) -> String {
    Ca::new(name).pem
}

fn pems<const N: usize>(names: [&str; N]) -> [String; N] {
    names.map(pem)
}
