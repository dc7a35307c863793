//! The names of request objects, derived from their keys and contents.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{Context, SHA512_256};

use crate::objects::PodCertificateSpec;

/// The name that kubelet gives a request object (`digestedName`): `node-csr-` and a SHA-512/256 digest over
/// the public key (SubjectPublicKeyInfo DER), common name, organizations and usages, in the order given.
///
/// Equal arguments give equal names, so that a request can be submitted again after a crash or a lost answer. The API
/// server refuses a second object of the same name with 409, and the submission continues with the first.
///
/// ```
/// use perennial_kubernetes::client::csr_name;
///
/// let usages = ["digital signature", "client auth"];
/// let name = csr_name(b"key", "system:node:a", ["system:nodes"], &usages);
/// assert_eq!(name, "node-csr-LW0LVgSwdautjTGAdsQsOa5R7qh0S_OcteJFLCr3UlQ");
/// ```
pub fn csr_name<O: AsRef<str>, U: AsRef<str>>(
    public_key_der: &[u8],
    common_name: &str,
    organizations: impl IntoIterator<Item = O>,
    usages: &[U],
) -> String {
    let mut digest = Context::new(&SHA512_256);
    // `|` is not in the base64url alphabet, so the encoding of the list is unambiguous.
    let mut part = |bytes: &[u8]| {
        digest.update(URL_SAFE_NO_PAD.encode(bytes).as_bytes());
        digest.update(b"|");
    };
    part(public_key_der);
    part(common_name.as_bytes());
    organizations.into_iter().for_each(|organization| part(organization.as_ref().as_bytes()));
    usages.iter().for_each(|usage| part(usage.as_ref().as_bytes()));
    format!("node-csr-{}", URL_SAFE_NO_PAD.encode(digest.finish()))
}

/// The name of a PodCertificateRequest: `req-` and 40 hexadecimal digits of a SHA-512/256 digest over the public key
/// (SubjectPublicKeyInfo DER) and the content of the request, without its CSR.
///
/// Equal arguments give equal names, so that a request can be submitted again after a crash or a lost answer. kubelet
/// has the server choose the rest of the name behind `req-`, and so has to forget a request when it restarts.
pub fn pod_certificate_name(public_key_der: &[u8], spec: &PodCertificateSpec) -> String {
    let content = PodCertificateSpec { stub_pkcs10_request: Vec::new(), ..spec.clone() };
    let mut digest = Context::new(&SHA512_256);
    // DER begins with its length, so that key and content cannot be confused.
    digest.update(public_key_der);
    // Strings, numbers and lists always serialize.
    digest.update(&serde_json::to_vec(&content).unwrap_or_default());
    let digits =
        digest.finish().as_ref().iter().take(20).fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"));
    format!("req-{digits}")
}

#[cfg(test)]
mod tests {
    use super::{csr_name, pod_certificate_name};
    use crate::objects::PodCertificateSpec;

    #[test]
    fn pod_certificate_name_is_equal_for_equal_requests_only() {
        let spec = PodCertificateSpec {
            signer_name: "example.com/mesh".into(),
            pod_name: "web-0".into(),
            stub_pkcs10_request: b"signed at random".to_vec(),
            ..PodCertificateSpec::default()
        };
        let name = pod_certificate_name(b"key", &spec);
        assert!(name.len() == 44 && name.starts_with("req-"), "{name}");
        assert!(name[4..].bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{name}");
        let signed_again = PodCertificateSpec { stub_pkcs10_request: b"other".to_vec(), ..spec.clone() };
        assert_eq!(pod_certificate_name(b"key", &signed_again), name);
        let change = |change: fn(&mut PodCertificateSpec)| {
            let mut changed = spec.clone();
            change(&mut changed);
            pod_certificate_name(b"key", &changed)
        };
        for other in [
            pod_certificate_name(b"kex", &spec),
            change(|spec| spec.signer_name = "example.com/other".into()),
            change(|spec| spec.pod_uid = "web-0".into()),
            change(|spec| spec.max_expiration_seconds = Some(3600)),
            change(|spec| drop(spec.unverified_user_annotations.insert("a".into(), "b".into()))),
        ] {
            assert_ne!(other, name);
        }
    }

    #[test]
    fn csr_name_is_equal_for_equal_requests_only() {
        let usages = ["digital signature", "client auth"];
        let name = csr_name(b"key", "system:node:a", ["system:nodes"], &usages);
        assert_eq!(name, csr_name(b"key", "system:node:a", ["system:nodes"], &usages));
        // Computed with OpenSSL's SHA-512/256.
        assert_eq!(name, "node-csr-LW0LVgSwdautjTGAdsQsOa5R7qh0S_OcteJFLCr3UlQ");
        for other in [
            csr_name(b"kex", "system:node:a", ["system:nodes"], &usages),
            csr_name(b"key", "system:node:b", ["system:nodes"], &usages),
            csr_name(b"key", "system:node:a", ["system:nodes", ""], &usages),
            csr_name(b"key", "system:node:a", ["system:nodes"], &usages[..1]),
            csr_name(b"key", "system:node:a", [""; 0], &usages),
        ] {
            assert_ne!(name, other);
        }
    }
}
