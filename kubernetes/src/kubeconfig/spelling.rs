//! Keys that nobody reads, and look much like one that is read.

/// The one of `known` that `key` was probably meant to be; `None` if it is one of them, or like none.
pub(crate) fn meant<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    if known.contains(&key) {
        return None;
    }
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let key = plain(key);
    let like = |known: &&str| {
        let known = plain(known);
        // Of a short word, almost any other is two letters away.
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
    fn near_spellings_are_taken_for_the_key() {
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
