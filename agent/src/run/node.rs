//! As whom the serving certificate, and all else a node asks for, is asked for.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use perennial::{Failure as Reason, Template};
use perennial_pki::Credential;
use perennial_rotation::{Handle, Identity, IdentitySource, News, NotYet, Notice};

use crate::kubeconfigs;
use crate::rotation::Observer;

/// The node itself: by its certificate, or else as the kubeconfig says.
#[derive(Clone)]
pub(super) struct Node {
    /// `None`: the first certificate is not one that API servers know the node by.
    first: Option<Handle>,
    kubeconfig: PathBuf,
}

impl Node {
    pub(super) const fn new(first: Option<Handle>, kubeconfig: PathBuf) -> Self {
        Self { first, kubeconfig }
    }

    /// As whom to ask now.
    pub(super) fn identity(&self) -> Result<Identity, String> {
        let own = self.first.as_ref().and_then(Handle::credential);
        own.map_or_else(|| kubeconfigs::identity(&self.kubeconfig), |own| Ok(Identity::Certificate(own)))
    }

    /// The first certificate has not been issued yet, and is what to ask with once it has.
    pub(super) fn awaits_first(&self) -> bool {
        self.first.as_ref().is_some_and(|first| first.credential().is_none())
    }

    /// When the API server does not know the node's certificate any more, that one is to be replaced first.
    pub(super) fn refused(&self, shown: &Credential) {
        if let Some(first) = &self.first {
            first.refused(shown);
        }
    }

    /// As whom to ask for another certificate, and who looks on at that.
    pub(super) fn asks(&self) -> (Arc<dyn IdentitySource>, Observer) {
        let shown: Arc<Mutex<Option<Arc<Credential>>>> = Arc::default();
        let (node, latest) = (self.clone(), shown.clone());
        let identity = move || {
            let identity = node.identity();
            let own = identity.as_ref().ok().and_then(certificate);
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = own;
            identity.map_err(NotYet::new)
        };
        let node = self.clone();
        let observer = Box::new(move |notice: &Notice| {
            if let News::Failed { failure: Reason::Unauthorized, .. } = notice.news
                && let Some(shown) = shown.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                node.refused(&shown);
            }
        });
        (Arc::new(identity), observer)
    }
}

/// The certificate that is shown.
pub(super) fn certificate(identity: &Identity) -> Option<Arc<Credential>> {
    identity.certificate().cloned()
}

/// The common name of the node of this name.
pub(super) fn common_name(node: &str) -> String {
    Template::node(node).common_name().to_owned()
}
