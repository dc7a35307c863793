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
        known.len().abs_diff(key.len()) <= most && distance(&known, &key) <= most
    };
    known.iter().copied().find(like)
}

/// How many letters have to be added, left out, exchanged or swapped with their neighbour (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let mut least =
                (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + usize::from(one[i - 1] != other[j - 1]));
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
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
