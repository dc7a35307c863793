//! Writing kubeconfigs of one cluster, one user and one context, as kubelet does.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial_pki::Credential;
use zeroize::Zeroizing;

use super::Endpoint;
use crate::cluster::Proxy;

/// Writes the kubeconfig that kubelet writes after its bootstrap. `credential_path` is the file that contains both
/// certificate and key, such as `/var/lib/kubelet/pki/kubelet-client-current.pem`. The kubeconfig has all settings of
/// `endpoint`.
///
/// The text has no secrets, except the password of a proxy and the data of other programs in `extensions`. Bytes of the
/// path that are not UTF-8 are replaced by U+FFFD, since a kubeconfig cannot contain them.
pub fn node_kubeconfig(endpoint: &Endpoint, credential_path: &Path) -> String {
    let path = credential_path.to_string_lossy();
    let user = [("client-certificate", &*path), ("client-key", &*path)];
    let mut text = kubeconfig(endpoint, "default-cluster", "default-auth", "default-context", &user);
    std::mem::take(&mut *text)
}

/// Writes a kubeconfig whose user, called `user`, has a bearer token, such as a bootstrap kubeconfig. The text is wiped
/// on drop.
pub fn kubeconfig_with_token(endpoint: &Endpoint, user: &str, token: &str) -> Zeroizing<String> {
    kubeconfig(endpoint, "kubernetes", user, &format!("{user}@kubernetes"), &[("token", token)])
}

/// Writes a kubeconfig whose user, called `user`, has an inline certificate and key. The text is wiped on drop.
/// In place of a key that stays elsewhere, the kubeconfig has the key's reference, which no client reads.
pub fn kubeconfig_with_certificate(endpoint: &Endpoint, user: &str, credential: &Credential) -> Zeroizing<String> {
    let certificate = STANDARD.encode(credential.chain().pem());
    let key = Zeroizing::new(STANDARD.encode(credential.key().to_pem().as_bytes()));
    let fields = [("client-certificate-data", &*certificate), ("client-key-data", &*key)];
    kubeconfig(endpoint, "kubernetes", user, &format!("{user}@kubernetes"), &fields)
}

fn kubeconfig(
    endpoint: &Endpoint,
    cluster: &str,
    user: &str,
    context: &str,
    user_fields: &[(&str, &str)],
) -> Zeroizing<String> {
    let mut text = Yaml::with_room_for(endpoint, user_fields);
    text.line("apiVersion: v1");
    text.line("kind: Config");
    text.line("clusters:");
    text.field("- name", cluster);
    text.line("  cluster:");
    text.field("    server", &endpoint.server);
    let ca_file = endpoint.ca_file.as_ref().map(|file| file.to_string_lossy());
    // Not both: readers prefer the data, and would miss a change of the file.
    let ca_data = endpoint.ca_pem.as_ref().filter(|_| ca_file.is_none()).map(|pem| STANDARD.encode(pem));
    for (key, value) in [
        ("    certificate-authority", ca_file.as_deref()),
        ("    certificate-authority-data", ca_data.as_deref()),
        ("    proxy-url", endpoint.proxy.as_ref().map(Proxy::url)),
        ("    tls-server-name", endpoint.tls_server_name.as_deref()),
    ] {
        value.into_iter().for_each(|value| text.field(key, value));
    }
    if endpoint.insecure_skip_tls_verify {
        text.line("    insecure-skip-tls-verify: true");
    }
    if endpoint.disable_compression {
        text.line("    disable-compression: true");
    }
    if let Some(extensions) = &endpoint.extensions {
        text.raw("    extensions", extensions.yaml());
    }
    text.line("users:");
    text.field("- name", user);
    text.line("  user:");
    for (key, value) in user_fields {
        text.field(&format!("    {key}"), value);
    }
    text.line("contexts:");
    text.field("- name", context);
    text.line("  context:");
    text.field("    cluster", cluster);
    text.field("    user", user);
    text.line("    namespace: default");
    text.field("current-context", context);
    text.0
}

/// A YAML text that is being written. Values are always quoted, so that readers take each value for text.
struct Yaml(Zeroizing<String>);

impl Yaml {
    /// Makes an empty text with room for all that will be written. A `String` that grows would leave copies of secrets
    /// in memory.
    fn with_room_for(endpoint: &Endpoint, user_fields: &[(&str, &str)]) -> Self {
        let ca = endpoint.ca_pem.as_ref().map_or(0, |pem| pem.len() * 4 / 3 + 4);
        let secrets: usize = user_fields.iter().map(|(_, value)| 64 + value.len() * 2).sum();
        let extensions = endpoint.extensions.as_ref().map_or(0, |extensions| extensions.yaml().len());
        Self(Zeroizing::new(String::with_capacity(4096 + ca + secrets + extensions)))
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Writes a field whose value is YAML on one line.
    fn raw(&mut self, key: &str, value: &str) {
        self.0.extend([key, ": ", value, "\n"]);
    }

    fn field(&mut self, key: &str, value: &str) {
        self.0.push_str(key);
        self.0.push_str(": ");
        quote(value, &mut self.0);
        self.0.push('\n');
    }
}

/// Writes `text` in double quotes, with escapes that YAML and JSON share.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Control characters, and characters that YAML 1.1 takes for line breaks or a byte order mark.
            '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}
