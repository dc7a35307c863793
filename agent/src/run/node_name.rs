//! The node's name, by kubelet's rules.

use rustix::system::uname;

use crate::failure::Failure;

/// Returns the node name: `given` or, if that is missing or empty, the host name; trimmed and in lower case.
///
/// Follows kubelet's `nodeutil.GetHostname`, where an empty name counts as missing and blanks are an error.
///
/// # Errors
/// [`Failure::Usage`] if the name is no RFC 1123 subdomain.
pub(crate) fn resolve(given: Option<&str>) -> Result<String, Failure> {
    let (text, from) = match given.filter(|given| !given.is_empty()) {
        Some(name) => (name.to_owned(), "--node-name"),
        None => (uname().nodename().to_string_lossy().into_owned(), "the host name"),
    };
    let name = text.trim().to_lowercase();
    if is_subdomain(&name) {
        return Ok(name);
    }
    Err(Failure::Usage(format!(
        "{from} {text:?} cannot be the name of a node: lower-case letters, digits, '-' and '.', \
         beginning and ending with a letter or digit; give another with --node-name"
    )))
}

/// True for an RFC 1123 subdomain, as Kubernetes requires of node names.
fn is_subdomain(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.into_iter().all(|end| end.is_some_and(|byte| fits(*byte)))
            && bytes.iter().all(|byte| fits(*byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host name in upper case gives a node name in lower case.
    ///
    /// From the field: <https://github.com/NixOS/nixpkgs/issues/315144>
    /// From the field: <https://github.com/kubermatic/kubeone/issues/3071>
    #[test]
    fn node_name_is_lowercased_and_invalid_name_is_refused() {
        for good in ["worker-1", "a", "ip-10-0-0-1.eu-west-1.compute.internal", "9"] {
            assert_eq!(resolve(Some(good)).expect(good), good);
        }
        for (typed, name) in [("Worker-1", "worker-1"), (" worker-1", "worker-1"), ("W.Example.COM\n", "w.example.com")]
        {
            assert_eq!(resolve(Some(typed)).expect(typed), name);
        }
        assert_eq!(resolve(Some("")).ok(), resolve(None).ok());
        for bad in [" ", "-a", "a-", "a..b", ".a", "a_b", "a b", "a/b", &"a".repeat(254)] {
            assert!(matches!(resolve(Some(bad)), Err(Failure::Usage(_))), "{bad:?}");
        }
    }
}
