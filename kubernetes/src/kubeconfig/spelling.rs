//! Finds the known key that an unknown key probably misspells.

/// The key in `known` that the author of `key` probably meant. `None` if `known` contains `key` itself, or no key that
/// resembles `key`.
pub(crate) fn meant<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    if known.contains(&key) {
        return None;
    }
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let key = plain(key);
    let like = |known: &&str| {
        let known = plain(known);
        // The distance allowed grows with the length: most pairs of short words differ in only two letters.
        let most = match known.len() {
            0..=3 => 0,
            4..=7 => 1,
            _ => 2,
        };
        known.len().abs_diff(key.len()) <= most && strsim::osa_distance(&known, &key) <= most
    };
    known.iter().copied().find(like)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_key_is_matched_to_known_key() {
        const KNOWN: [&str; 5] = ["serverTLSBootstrap", "certificate-authority", "tokenFile", "token", "as"];
        for (key, expected) in [
            ("ServerTLSBootstrap", Some("serverTLSBootstrap")),
            ("serverTlsBootstrap", Some("serverTLSBootstrap")),
            ("server_tls_bootstrap", Some("serverTLSBootstrap")),
            ("serverTLSBootsrap", Some("serverTLSBootstrap")),
            ("serverTLSBootstarp", Some("serverTLSBootstrap")),
            ("certificateAuthority", Some("certificate-authority")),
            ("token-file", Some("tokenFile")),
            ("tokne", Some("token")),
            ("AS", Some("as")),
            ("serverTLSBootstrap", None),
            ("tlsMinVersion", None),
            ("ad", None),
            ("", None),
        ] {
            assert_eq!(meant(key, &KNOWN), expected, "{key}");
        }
    }
}
