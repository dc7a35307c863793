//! Helpers for tests of pod certificate requests.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::{Template, UnixTime, Validity};
use perennial_dev::{Method, Options};
use perennial_kubernetes::PodIdentity;
use perennial_pki::{KeyPair, certificate_request, read_request, self_signed};
use serde_json::{Value, json};

use super::{NOW, Role, Server, with_body};

pub(crate) const REQUESTS: &str = "/apis/certificates.k8s.io/v1beta1/namespaces/shop/podcertificaterequests";
pub(crate) const SIGNER: &str = "example.com/mesh";

/// A server with the pod `shop/web` on node `one`, and without a signer of pod certificates.
pub(crate) fn unsigned() -> (Server, PodIdentity) {
    let mut server = Server::new(Options::default());
    let pod = server.api.put_pod("shop", "web", "seller", "one", NOW).unwrap();
    (server, pod)
}

pub(crate) fn create(server: &mut Server, role: &Role, object: &Value) -> (u16, Value) {
    server.send(role, with_body(Method::POST, REQUESTS, object))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn certificate_request_der(template: &Template, key: &KeyPair) -> Vec<u8> {
    let pem = certificate_request(template, key).unwrap().pem;
    read_request(pem.as_bytes()).unwrap().der
}

/// A CSR without names, as DER.
pub(crate) fn stub(key: &KeyPair) -> Vec<u8> {
    certificate_request_der(&Template::default(), key)
}

/// A request object for a certificate of `pod`, with a new key. The pod owns the object.
pub(crate) fn pod_request(pod: &PodIdentity, name: &str) -> Value {
    let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid });
    json!({
        "apiVersion": "certificates.k8s.io/v1beta1",
        "kind": "PodCertificateRequest",
        "metadata": { "name": name, "ownerReferences": [owner] },
        "spec": {
            "signerName": SIGNER,
            "podName": pod.name,
            "podUID": pod.uid,
            "serviceAccountName": pod.service_account_name,
            "serviceAccountUID": pod.service_account_uid,
            "nodeName": pod.node_name,
            "nodeUID": pod.node_uid,
            "stubPKCS10Request": base64(&stub(&super::key())),
        },
    })
}

pub(crate) fn decision(kind: &str) -> Value {
    json!({
        "type": kind,
        "status": "True",
        "reason": "Test",
        "message": "by the test",
        "lastTransitionTime": NOW.to_string(),
    })
}

/// Makes the status of a request with a certificate of this validity for a key. `begin` is beginRefreshAt in seconds.
pub(crate) fn issued_status(from: UnixTime, to: UnixTime, begin: i64) -> impl Fn(&KeyPair) -> Value {
    move |key| {
        let chain = self_signed("web", key, &[1], Validity::new(from, to).unwrap()).unwrap();
        json!({
            "conditions": [decision("Issued")],
            "certificateChain": chain.pem(),
            "notBefore": from.to_string(),
            "beginRefreshAt": UnixTime::from_secs(begin).to_string(),
            "notAfter": to.to_string(),
        })
    }
}

/// A tick of the clock by `seconds`, with the controllers that are due.
pub(crate) fn advance(server: &mut Server, seconds: u64) {
    server.now = server.now.after(Duration::from_secs(seconds));
    server.api.tick(server.now);
}
