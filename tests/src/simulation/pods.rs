//! A pod on the embedded API server in virtual time, and the requests for its certificates.

use std::sync::Arc;

use perennial::UnixTime;
use perennial_dev::{Answer, Api, ApiRequest, Method, PodSigner};
use perennial_kubernetes::objects::PodCertificateRequest;
use perennial_kubernetes::{PodCertificateSigner, PodIdentity};
use perennial_rotation::Identity;
use serde_json::Value;

use super::server::{DAY, Server, admin};

/// The signer of pod certificates, `example.com/mesh`.
pub const MESH: &str = "example.com/mesh";
/// The path of the API group with the version that serves the requests.
const GROUP: &str = "/apis/certificates.k8s.io/v1beta1";

impl Server {
    /// Starts the signer [`MESH`] with this behaviour, or changes its behaviour.
    pub fn set_mesh(&mut self, behaviour: PodSigner) {
        let now = self.now().unix;
        self.api.set_pod_signer(MESH, behaviour, now);
    }

    /// Creates the pod `shop/web-0` on the node `worker-1`, unless it exists.
    pub fn pod(&mut self) -> PodIdentity {
        let now = self.now().unix;
        self.api.put_pod("shop", "web-0", "web", "worker-1", now).unwrap()
    }

    /// The signer [`MESH`] of the certificates of [`pod`](Self::pod), for requests with a client certificate of its node.
    pub fn pod_signer(&mut self) -> PodCertificateSigner {
        let node = Identity::Certificate(self.node_credential(DAY, 900 * DAY));
        let pod = self.pod();
        PodCertificateSigner::new(self.cluster().clone(), Arc::new(node), MESH, pod)
    }

    /// The requests for certificates of pods, in the order of their names.
    pub fn pod_requests(&mut self) -> Vec<PodCertificateRequest> {
        let now = self.now().unix;
        pod_requests(&mut self.api, now)
    }

    /// Deletes all requests for certificates of pods, as an administrator.
    pub fn delete_pod_requests(&mut self) {
        let now = self.now().unix;
        for PodCertificateRequest { metadata, .. } in self.pod_requests() {
            let path = format!("{GROUP}/namespaces/{}/podcertificaterequests/{}", metadata.namespace, metadata.name);
            call(&mut self.api, Method::DELETE, path, now);
        }
    }
}

/// The requests for certificates of pods on an embedded API server, in the order of their namespaces and names.
pub fn pod_requests(api: &mut Api, now: UnixTime) -> Vec<PodCertificateRequest> {
    let list = call(api, Method::GET, format!("{GROUP}/podcertificaterequests"), now);
    serde_json::from_value(list["items"].clone()).unwrap()
}

fn call(api: &mut Api, method: Method, target: String, now: UnixTime) -> Value {
    let request = ApiRequest { peer: Some(Arc::new(admin())), ..ApiRequest::new(method, target) };
    let response = match api.handle(&request, now) {
        Answer::Response(response) => response,
        Answer::List(list) => list.into_response(),
        Answer::Watch(_) => panic!("no watches here"),
    };
    assert_eq!(response.status, 200);
    serde_json::from_slice(&response.body).unwrap()
}
