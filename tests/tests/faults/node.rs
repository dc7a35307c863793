//! A node that requests certificates as a kubelet does, with its own API server.

use std::sync::Arc;
use std::time::Duration;

use perennial::Template;
use perennial_dev::{Options, ServingApproval};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::{Credential, Usage};
use perennial_rotation::{Authentication, Identity, Token};
use perennial_tests::loopback::TOKEN;
use perennial_tests::simulation::{HOUR, Member as _, Node, Server};

/// The lifetime of certificates. There are hours between the rotation point and expiry, so that submissions can fail
/// for hours before the certificate expires.
const LIFETIME: Duration = Duration::from_secs(40 * 3600);

/// A node that has its first certificate, of the lifetime [`LIFETIME`]: a serving certificate if `serving`, else a
/// client certificate.
pub(crate) fn node(serving: bool) -> Node {
    node_living(serving, LIFETIME)
}

/// A node that has its first certificate, of this lifetime: a serving certificate if `serving`, else a client
/// certificate.
pub(crate) fn node_living(serving: bool, lifetime: Duration) -> Node {
    node_at(
        serving,
        Options { approve_serving: ServingApproval::Any, signing_duration: lifetime, ..Options::default() },
    )
}

/// A node that has its first certificate: a serving certificate if `serving`, else a client certificate. Its API server
/// has these options.
pub(crate) fn node_at(serving: bool, options: Options) -> Node {
    let mut server = Server::signed_by(options, 100 * LIFETIME);
    let own = serving.then(|| server.node_credential(Duration::ZERO, 50 * LIFETIME));
    let mut signer = kubelet(server.signer().cluster, own);
    signer.profile.issuers = Some(server.api.authority().roots().unwrap());
    let mut node = Node::with_signer(server, signer, template(serving), None);
    assert!(node.run_until(HOUR, |node| node.issued() == 1), "{:?}", node.rotation.snapshot(node.now()));
    node
}

/// The signer of a kubelet's serving certificates if `node` is given: requests authenticate with the credential `node`.
/// Else the signer of a kubelet's client certificates, whose bootstrap credential is [`TOKEN`].
pub(crate) fn kubelet(cluster: Arc<Cluster>, node: Option<Arc<Credential>>) -> CsrSigner {
    let token = Token::new(TOKEN).unwrap();
    let mut signer = CsrSigner::kubelet_client(cluster, Some(Arc::new(move || Ok(Identity::Token(token.clone())))));
    if let Some(node) = node {
        signer.signer_name = "kubernetes.io/kubelet-serving".into();
        signer.profile.usages = vec![Usage::ServerAuth];
        signer.authentication = Authentication::Other(Arc::new(move || Ok(Identity::Certificate(node.clone()))));
    }
    signer
}

pub(crate) fn template(serving: bool) -> Template {
    let template = Template::node("worker-1");
    if serving { template.with_dns_names(["worker-1.example"]) } else { template }
}
