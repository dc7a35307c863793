//! The rules of the API for a PodCertificateRequest: `ValidatePodCertificateRequestCreate` in
//! `pkg/apis/certificates/validation/validation.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::printable;
use crate::names::{SUBDOMAIN, is_label, is_name, is_subdomain, signer_name};
use crate::objects::PodCertificateSpec;

/// The shortest `maxExpirationSeconds` that may be requested: one hour.
const SHORTEST: u64 = 3600;
/// The longest `maxExpirationSeconds`: 91 days.
const LONGEST: u64 = 91 * 86_400;
/// The longest `maxExpirationSeconds` of a signer of Kubernetes itself: 24 hours.
const LONGEST_OF_KUBERNETES: u64 = 86_400;
/// The greatest length of a UID.
const UID: usize = 128;
/// The greatest length of all annotations together, keys and values: 256 KiB.
const ANNOTATIONS: usize = 256 << 10;

/// Checks the content of a request in this namespace. `requested` is the lifetime, which `max_expiration_seconds` may be
/// too small to hold.
///
/// # Errors
/// The first rule by which an API server would refuse the request, as a sentence.
pub(super) fn check(namespace: &str, spec: &PodCertificateSpec, requested: Duration) -> Result<(), String> {
    signer_name(&spec.signer_name)?;
    let [names, uids] = [
        [&*spec.pod_name, &spec.service_account_name, &spec.node_name],
        [&*spec.pod_uid, &spec.service_account_uid, &spec.node_uid],
    ];
    pod(namespace, names, uids)?;
    lifetime(&spec.signer_name, requested)?;
    annotations(&spec.unverified_user_annotations)
}

/// Checks a namespace, and the names and UIDs of a pod, its service account and its node.
pub(super) fn pod(namespace: &str, names: [&str; 3], uids: [&str; 3]) -> Result<(), String> {
    const OBJECTS: [&str; 3] = ["pod", "service account", "node"];
    if !is_label(namespace) {
        return Err(format!("the namespace `{}` is not a DNS label such as `default`", printable(namespace)));
    }
    if let Some((what, name)) = OBJECTS.iter().zip(names).find(|(_, name)| !is_subdomain(name)) {
        return Err(format!(
            "the name of the {what}, `{}`, is not a DNS subdomain of at most {SUBDOMAIN} lower-case characters",
            printable(name)
        ));
    }
    match OBJECTS.iter().zip(uids).find(|(_, uid)| uid.is_empty() || uid.len() > UID) {
        Some((what, uid)) => Err(format!("the UID of the {what} has {} bytes; it must have 1 to {UID}", uid.len())),
        None => Ok(()),
    }
}

/// Checks the lifetime to request from a signer, the `maxExpirationSeconds`.
pub(super) fn lifetime(signer_name: &str, lifetime: Duration) -> Result<(), String> {
    let longest = if is_of_kubernetes(signer_name) { LONGEST_OF_KUBERNETES } else { LONGEST };
    if (SHORTEST..=longest).contains(&lifetime.as_secs()) {
        return Ok(());
    }
    Err(format!(
        "the lifetime of {} s is not allowed for the signer {}: certificates of pods are requested for {SHORTEST} s to \
         {longest} s",
        lifetime.as_secs_f64(),
        printable(signer_name)
    ))
}

/// True for names of signers that Kubernetes itself defines (`IsKubernetesSignerName`).
fn is_of_kubernetes(signer_name: &str) -> bool {
    let (domain, _) = signer_name.split_once('/').unwrap_or((signer_name, ""));
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

/// Checks annotations for a signer (`ValidateUserAnnotations` in `pkg/apis/core/validation/validation.go`).
pub(super) fn annotations(annotations: &BTreeMap<String, String>) -> Result<(), String> {
    for key in annotations.keys() {
        // Upper case does not matter in keys of annotations.
        let lower = key.to_lowercase();
        let is_valid = lower.split_once('/').is_some_and(|(domain, name)| is_subdomain(domain) && is_name(name));
        if !is_valid {
            return Err(format!(
                "the annotation `{}` has not the form `example.com/name`; annotations for a signer need a domain",
                printable(key)
            ));
        }
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS {
        return Err(format!("the annotations have {size} bytes together; {ANNOTATIONS} are allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> PodCertificateSpec {
        PodCertificateSpec {
            signer_name: "example.com/mesh".into(),
            pod_name: "web-0".into(),
            pod_uid: "11111111-1111-4111-8111-111111111111".into(),
            service_account_name: "web".into(),
            service_account_uid: "2".into(),
            node_name: "node-1.example".into(),
            node_uid: "3".into(),
            ..PodCertificateSpec::default()
        }
    }

    #[track_caller]
    fn check_change(change: impl FnOnce(&mut PodCertificateSpec), refusal: Option<&str>) {
        let mut spec = good();
        change(&mut spec);
        let checked = check("shop", &spec, Duration::from_secs(86_400));
        match (&checked, refusal) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) if error.contains(part) => {}
            _ => panic!("{checked:?}, expected {refusal:?}: {spec:?}"),
        }
    }

    #[test]
    fn names_and_uids_follow_rules_of_kubernetes() {
        check_change(|_| {}, None);
        let signer = |name: &str, refusal| check_change(|spec| spec.signer_name = name.into(), refusal);
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        for name in ["a.b/c", "kubernetes.io/kube-apiserver-client-pod", "example.com/ns.issuer", "1.2/3"] {
            signer(name, None);
        }
        let longest = format!("{long}/{}.{}", "n".repeat(63), "r".repeat(253));
        signer(&longest, None);
        signer(&format!("{longest}x"), Some("signer name"));
        for name in
            ["", "mesh", "com/mesh", "example.com", "example.com/", "/mesh", "Example.com/mesh", "example.com/a/b"]
        {
            signer(name, Some("has not the form `example.com/signer-name`"));
        }
        for name in ["example..com/mesh", "-a.com/mesh", "example.com/mesh_1", "example.com/.a", "ex\nample.com/mesh"] {
            signer(name, Some("signer name"));
        }
        for (field, what) in
            [(0, "the name of the pod"), (1, "the name of the service account"), (2, "the name of the node")]
        {
            let named = |name: String, refusal| {
                check_change(
                    |spec| {
                        *[&mut spec.pod_name, &mut spec.service_account_name, &mut spec.node_name][field] = name;
                    },
                    refusal,
                );
            };
            named("a".repeat(253), None);
            for name in [String::new(), "a".repeat(254), "A".into(), "a_b".into(), "a.".into(), "-a".into(), "ä".into()]
            {
                named(name, Some(what));
            }
        }
        for (field, what) in [(0, "UID of the pod"), (1, "UID of the service account"), (2, "UID of the node")] {
            let with_uid = |uid: String, refusal| {
                check_change(
                    |spec| *[&mut spec.pod_uid, &mut spec.service_account_uid, &mut spec.node_uid][field] = uid,
                    refusal,
                );
            };
            with_uid("u".repeat(128), None);
            with_uid("u".repeat(129), Some(what));
            with_uid(String::new(), Some(what));
        }
        for namespace in ["", "a.b", "A", "a-", &"n".repeat(64)] {
            let error = check(namespace, &good(), Duration::from_secs(3600)).unwrap_err();
            assert!(error.contains("DNS label"), "{error}");
        }
    }

    #[test]
    fn lifetime_has_bounds_of_signer() {
        for (signer, seconds, is_good) in [
            ("example.com/mesh", 3599, false),
            ("example.com/mesh", 3600, true),
            ("example.com/mesh", 7_862_400, true),
            ("example.com/mesh", 7_862_401, false),
            ("example.com/mesh", u64::MAX, false),
            ("notkubernetes.io/a", 86_401, true),
            ("kubernetes.io/kube-apiserver-client-pod", 86_400, true),
            ("kubernetes.io/kube-apiserver-client-pod", 86_401, false),
            ("x.kubernetes.io/a", 86_401, false),
        ] {
            let spec = PodCertificateSpec { signer_name: signer.into(), ..good() };
            let checked = check("shop", &spec, Duration::from_secs(seconds));
            assert_eq!(checked.is_ok(), is_good, "{signer} {seconds}: {checked:?}");
        }
    }

    #[test]
    fn annotations_have_domains_and_size_limit() {
        let with = |key: &str, value: String, refusal| {
            check_change(|spec| drop(spec.unverified_user_annotations.insert(key.into(), value)), refusal);
        };
        let longest = format!("example.com/{}", "n".repeat(63));
        for key in ["example.com/name", "Example.COM/Name_1.x", "localhost/a", &longest] {
            with(key, "any \u{0} value".into(), None);
        }
        for key in
            ["name", "", "/name", "example.com/", "example.com/a/b", "exa mple.com/a", "example.com/-a", "a_b.com/c"]
        {
            with(key, String::new(), Some("has not the form `example.com/name`"));
        }
        with(&format!("{longest}n"), String::new(), Some("has not the form"));
        with("example.com/name", "v".repeat(ANNOTATIONS - 16), None);
        with("example.com/name", "v".repeat(ANNOTATIONS - 15), Some("262145 bytes"));
    }
}
