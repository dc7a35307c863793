//! The identity of the node, for everything that it requests but its client certificate.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;

use perennial::{State, Template};
use perennial_rotation::{Handle, Identity, IdentitySource, NotYet};

use crate::kubeconfigs;
use crate::patience;

/// The client certificate. Where there is none, and another program keeps that certificate or it is none that API servers
/// know the node by: the credential of the kubeconfig.
#[derive(Clone)]
pub(super) struct NodeIdentity {
    client: Option<Handle>,
    kubeconfig: Arc<dyn IdentitySource>,
}

impl NodeIdentity {
    pub(super) fn new(client: Option<Handle>, kubeconfig: PathBuf) -> Self {
        let kubeconfig = Arc::new(move || kubeconfigs::identity(&kubeconfig).map_err(NotYet::new));
        Self { client, kubeconfig }
    }

    /// The same for a loop that must not wait for the disk of the kubeconfig.
    pub(super) fn bounded(&self) -> Self {
        Self { client: self.client.clone(), kubeconfig: patience::bounded(self.kubeconfig.clone()) }
    }
}

impl IdentitySource for NodeIdentity {
    fn identity(&self) -> Result<Identity, NotYet> {
        match self.client.as_ref().map(|client| (client.identity(), client.state())) {
            None | Some((Err(_), State::NotEnabled)) => self.kubeconfig.identity(),
            Some((Err(why), _)) if why.is_coming() => Err(NotYet::coming("waiting for the client certificate")),
            Some((identity, _)) => identity,
        }
    }

    fn wake_on_change(&self, waker: &Waker) {
        self.client.iter().for_each(|client| client.wake_on_change(waker));
    }

    /// Has the client certificate replaced first.
    fn identity_refused(&self, identity: &Identity) {
        self.client.iter().for_each(|client| client.identity_refused(identity));
    }
}

/// The common name of the node of this name.
pub(super) fn common_name(node: &str) -> String {
    Template::node(node).common_name().to_owned()
}
