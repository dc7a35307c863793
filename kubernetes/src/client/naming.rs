//! The name of a request object, derived from its key, subject and usages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{Context, SHA512_256};

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

#[cfg(test)]
mod tests {
    use super::csr_name;

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
