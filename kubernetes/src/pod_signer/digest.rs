//! The digest of everything that the requests for a pod's certificate ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use perennial_rotation::KeyAlgorithm;
use ring::digest::{Context, SHA512_256};

use super::{DAY, PodIdentity};

/// The digest of a request without its key: SHA-512/256 as base64url. Pending records contain the digest: with another digest
/// for the same request, an upgrade would replace all certificates of a node at once.
pub(crate) fn request_digest(
    pod: &PodIdentity,
    signer_name: &str,
    key_algorithm: KeyAlgorithm,
    lifetime: Option<Duration>,
    annotations: &BTreeMap<String, String>,
) -> String {
    let PodIdentity { namespace, name, uid, service_account_name, service_account_uid, node_name, node_uid } = pod;
    let (key_algorithm, seconds) = (key_algorithm.to_string(), lifetime.unwrap_or(DAY).as_secs().to_string());
    let pod = [namespace, name, uid, service_account_name, service_account_uid, node_name, node_uid];
    let fixed = pod.into_iter().map(String::as_str).chain([signer_name, &key_algorithm, &seconds]);
    let mut digest = Context::new(&SHA512_256);
    for part in fixed.chain(annotations.iter().flat_map(|(key, value)| [&**key, value])) {
        digest.update(URL_SAFE_NO_PAD.encode(part).as_bytes());
        // `|` is not in the base64url alphabet, so the encoding of the list is unambiguous.
        digest.update(b"|");
    }
    URL_SAFE_NO_PAD.encode(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_that_of_earlier_versions_and_differs_with_each_part() {
        let pod =
            PodIdentity { namespace: "shop".into(), name: "web-0".into(), uid: "1".into(), ..PodIdentity::default() };
        let none = BTreeMap::new();
        let of = |pod: &PodIdentity| request_digest(pod, "example.com/mesh", KeyAlgorithm::EcdsaP256, None, &none);
        // Computed with OpenSSL's SHA-512/256.
        assert_eq!(of(&pod), "nwW6xFHoliAEHn3bTne9UT6IMONMCU6Uql2sl0ys8xM");
        let with = |change: fn(&mut PodIdentity, String)| {
            let mut changed = pod.clone();
            change(&mut changed, "x".into());
            of(&changed)
        };
        let annotations = |key: &str, value: &str| {
            let annotations = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            request_digest(&pod, "example.com/mesh", KeyAlgorithm::EcdsaP256, None, &annotations)
        };
        let day = Some(DAY);
        assert_eq!(
            request_digest(&pod, "example.com/mesh", KeyAlgorithm::EcdsaP256, day, &none),
            of(&pod),
            "the default"
        );
        let all = [
            of(&pod),
            with(|pod, text| pod.namespace = text),
            with(|pod, text| pod.name = text),
            with(|pod, text| pod.uid = text),
            with(|pod, text| pod.service_account_name = text),
            with(|pod, text| pod.service_account_uid = text),
            with(|pod, text| pod.node_name = text),
            with(|pod, text| pod.node_uid = text),
            request_digest(&pod, "example.com/other", KeyAlgorithm::EcdsaP256, None, &none),
            request_digest(&pod, "example.com/mesh", KeyAlgorithm::Ed25519, None, &none),
            request_digest(&pod, "example.com/mesh", KeyAlgorithm::EcdsaP256, Some(DAY / 2), &none),
            annotations("a", "bc"),
            annotations("ab", "c"),
        ];
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
