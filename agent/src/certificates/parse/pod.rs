//! Parses the keys for the certificate of a pod: `pod`, `node` and `userAnnotations`.

use std::time::Duration;

use perennial_kubernetes::pods::{self, PodError};
use perennial_kubernetes::{PodCertificateSigner, PodIdentity};

use crate::certificates::member::Pod;
use crate::certificates::reader::Section;
use crate::certificates::variables::NODE_NAME;

/// The keys of properties that the signer of a pod's certificate chooses.
const CHOSEN: [&str; 7] =
    ["commonName", "organizations", "dnsNames", "ipAddresses", "uris", "usages", "acceptExtraRights"];

/// Reports keys that have an effect for certificates of pods only.
pub(super) fn check_absent(section: &Section<'_>) {
    // `defaults` are for other certificates, too.
    for key in ["userAnnotations", "node"].into_iter().filter(|key| section.has(key)) {
        section.fault(key, "has no effect without `pod`; add `pod`, or remove this key");
    }
}

/// Parses the pod of a certificate. `None` if a value is missing or wrong; all errors are reported.
pub(super) fn pod(section: &Section<'_>, signer: Option<&str>, lifetime: Option<Duration>) -> Option<Pod> {
    let errors = section.errors();
    for key in CHOSEN.into_iter().filter(|key| section.has(key)) {
        let why = "the signer chooses the names and usages of a pod's certificate; remove this key, or `pod`";
        section.fault(key, why);
    }
    let checked = |signer| PodCertificateSigner::check_lifetime(signer, lifetime.unwrap_or(Pod::LIFETIME));
    if let Some(Err(why)) = signer.map(checked) {
        section.fault("lifetime", why);
    }
    let user_annotations = section.section("userAnnotations").map(|annotations| annotations.texts());
    let user_annotations = user_annotations.unwrap_or_default().into_iter().collect();
    if let Err(why) = PodCertificateSigner::check_annotations(&user_annotations) {
        section.fault("userAnnotations", why);
    }
    let identity = identity(&section.section("pod")?, section)?;
    (section.errors() == errors).then_some(Pod { identity, user_annotations })
}

/// Parses `pod`, and the `node` of the certificate.
fn identity(pod: &Section<'_>, certificate: &Section<'_>) -> Option<PodIdentity> {
    pod.allow(&["namespace", "name", "uid", "serviceAccountName", "serviceAccountUID"]);
    for (key, example) in [
        ("namespace", "shop"),
        ("name", "web-0"),
        ("uid", "0f6b1c7e-8d1a-4b52-9c3f-2a4e5d6c7b80"),
        ("serviceAccountName", "default"),
        ("serviceAccountUID", "5a1d2c3b-7e6f-4a58-8b9c-0d1e2f3a4b5c"),
    ] {
        pod.require(key, example);
    }
    let node = certificate.section("node");
    match &node {
        Some(node) => {
            node.allow(&["name", "uid"]);
            node.require("uid", "'${NODE_UID}'");
        }
        None => certificate.require("node", "{uid: '${NODE_UID}'}"),
    }
    let field = |key, set: fn(&mut PodIdentity, String)| field(pod, key, set);
    let (namespace, name, uid, service_account_name, service_account_uid) = (
        field("namespace", |pod, text| pod.namespace = text),
        field("name", |pod, text| pod.name = text),
        field("uid", |pod, text| pod.uid = text).filter(|uid| check_uid(pod, uid)),
        field("serviceAccountName", |pod, text| pod.service_account_name = text),
        field("serviceAccountUID", |pod, text| pod.service_account_uid = text),
    );
    let node = node?;
    let node_name = match node.field("name") {
        Some(_) => self::field(&node, "name", |pod, text| pod.node_name = text),
        None => node.variable(NODE_NAME),
    };
    let node_uid = self::field(&node, "uid", |pod, text| pod.node_uid = text);
    Some(PodIdentity {
        namespace: namespace?,
        name: name?,
        uid: uid?,
        service_account_name: service_account_name?,
        service_account_uid: service_account_uid?,
        node_name: node_name?,
        node_uid: node_uid?,
    })
}

/// Checks the UID of a pod, the name of the directory with the private copy of its certificate.
fn check_uid(pod: &Section<'_>, uid: &str) -> bool {
    let identity = PodIdentity { uid: uid.to_owned(), ..PodIdentity::default() };
    let checked = pods::Pod { identity, ..pods::Pod::default() }.check();
    if let Err(error) = &checked {
        let why = if let PodError::Invalid { why, .. } = error { why.clone() } else { error.to_string() };
        pod.fault("uid", why);
    }
    checked.is_ok()
}

/// Parses one name or UID, and checks it by the rules of the API.
fn field(section: &Section<'_>, key: &str, set: fn(&mut PodIdentity, String)) -> Option<String> {
    section.parse(key, |text| {
        let good = || "a".to_owned();
        // All others are good, so that an error is about this one.
        let mut identity = PodIdentity {
            namespace: good(),
            name: good(),
            uid: good(),
            service_account_name: good(),
            service_account_uid: good(),
            node_name: good(),
            node_uid: good(),
        };
        set(&mut identity, text.to_owned());
        identity.check().map(|()| text.to_owned())
    })
}
