//! The credential that authenticates the node when perennial requests serving certificates and reads the Node object:
//! [`NodeIdentity`].

use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;

use perennial::{State, Template};
use perennial_rotation::{Handle, Identity, IdentitySource, NotYet};

use crate::kubeconfigs;
use crate::patience;

/// The identity of the node: the client certificate or, in two cases, the credential in the kubeconfig. In the first
/// case, API servers do not accept the client certificate as an identity. In the second case, another program rotates
/// the client certificate, and there is no valid one at present.
#[derive(Clone)]
pub(super) struct NodeIdentity {
    /// The rotation of the client certificate; `None` if API servers do not accept the certificate as an identity.
    client: Option<Handle>,
    kubeconfig: Arc<dyn IdentitySource>,
}

impl NodeIdentity {
    pub(super) fn new(client: Option<Handle>, kubeconfig: PathBuf) -> Self {
        let kubeconfig = Arc::new(move || kubeconfigs::identity(&kubeconfig).map_err(NotYet::new));
        Self { client, kubeconfig }
    }

    /// Returns a copy for a loop that must not wait for a disk: a read of the kubeconfig that takes longer than five
    /// seconds fails.
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

    /// Reports to the client certificate's rotation that the API server refused `identity`. The rotation requests a new
    /// certificate if `identity` is the current one.
    fn identity_refused(&self, identity: &Identity) {
        self.client.iter().for_each(|client| client.identity_refused(identity));
    }
}

/// The common name of a certificate of this node: `system:node:NAME`.
pub(super) fn common_name(node: &str) -> String {
    Template::node(node).common_name().to_owned()
}
