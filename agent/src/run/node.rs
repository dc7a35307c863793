//! As whom the serving certificate, and all else a node asks for, is asked for.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use perennial::{Failure as Reason, Template};
use perennial_kubernetes::cluster::Identity;
use perennial_kubernetes::rotation::{IdentitySource, Observer};
use perennial_pki::Credential;
use perennial_std::Handle;

use crate::cli::Run;
use crate::kubeconfigs;

/// The node itself: by its certificate, or else as the kubeconfig says.
pub(super) struct Node {
    first: Handle,
    kubeconfig: PathBuf,
    shown: Arc<Mutex<Option<Arc<Credential>>>>,
}

impl Node {
    pub(super) fn new(options: &Run, first: &Handle) -> Self {
        Self { first: first.clone(), kubeconfig: options.kubeconfig.clone(), shown: Arc::default() }
    }

    /// As whom to ask now.
    pub(super) fn identity(&self) -> IdentitySource {
        let (first, shown, kubeconfig) = (self.first.clone(), self.shown.clone(), self.kubeconfig.clone());
        Arc::new(move || {
            let own = first.credential();
            shown.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&own);
            own.map_or_else(|| kubeconfigs::identity(&kubeconfig), |own| Ok(Identity::Certificate(own)))
        })
    }

    /// When the API server does not know the node's certificate any more, that one is to be replaced first.
    pub(super) fn tells_of_refusals(&self) -> Observer {
        let (first, shown) = (self.first.clone(), self.shown.clone());
        Box::new(move |step| {
            if step.failure() == Some(Reason::Unauthorized)
                && let Some(shown) = shown.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                first.refused(&shown);
            }
        })
    }
}

/// The common name of the node of this name.
pub(super) fn common_name(node: &str) -> String {
    Template::node(node).common_name().to_owned()
}
