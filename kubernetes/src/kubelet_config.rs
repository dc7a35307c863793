//! The settings for certificates in kubelet's configuration file. All other settings are ignored.

use std::path::{Path, PathBuf};

use crate::kubeconfig::compose::documents;
use crate::kubeconfig::document::{Field, Node};
use crate::kubeconfig::{KubeconfigError, Place};

/// The settings for certificates in a `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`). A setting is `None` if
/// the file does not have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KubeletConfig {
    /// `rotateCertificates`: rotate the client certificate.
    pub rotate_certificates: Option<bool>,
    /// `serverTLSBootstrap`: request the serving certificate from the API server, and rotate it.
    pub server_tls_bootstrap: Option<bool>,
    /// `tlsCertFile`: the file of an externally managed serving certificate.
    pub tls_cert_file: Option<PathBuf>,
    /// `tlsPrivateKeyFile`: the file of the key of `tls_cert_file`.
    pub tls_private_key_file: Option<PathBuf>,
    /// Warnings about keys that kubelet accepts: a repeated key, or an unknown key that resembles the key of a setting
    /// for certificates. Each is one line with file, line and column.
    pub warnings: Vec<String>,
}

const KIND: &str = "KubeletConfiguration";
const GROUP: &str = "kubelet.config.k8s.io/";

/// The keys of kubelet's configuration that perennial reads.
const KEYS: &[&str] =
    &["kind", "apiVersion", "rotateCertificates", "serverTLSBootstrap", "tlsCertFile", "tlsPrivateKeyFile"];

impl KubeletConfig {
    /// Parses `text`, YAML or JSON, of the file at `path`. The path is not opened: file names in the text are relative
    /// to its directory, as in kubelet. Of several YAML documents, as in kubeadm's files, the one of the kind
    /// `KubeletConfiguration` counts.
    ///
    /// # Errors
    /// [`KubeconfigError::Syntax`] if the text is not YAML; [`KubeconfigError::Invalid`] if there is no such document,
    /// if a setting for certificates is of the wrong type or given twice with different values, or if only one of
    /// certificate file and key file is named.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KubeconfigError> {
        let (documents, error) = documents(path, text);
        // Unlike in a kubeconfig, a document behind the error may be the one that counts.
        error.map_or(Ok(()), Err)?;
        let document = of_kubelet(path, &documents)?;
        let from = path.parent().unwrap_or_else(|| Path::new(""));
        let file = |key| document.text_of(key).map(|name| name.map(|name| from.join(name)));
        let (tls_cert_file, tls_private_key_file) = (file("tlsCertFile")?, file("tlsPrivateKeyFile")?);
        if tls_cert_file.is_some() != tls_private_key_file.is_some() {
            return Err(document.invalid("tlsCertFile and tlsPrivateKeyFile belong together: give both, or neither"));
        }
        Ok(Self {
            rotate_certificates: document.flag_of("rotateCertificates")?,
            server_tls_bootstrap: document.flag_of("serverTLSBootstrap")?,
            tls_cert_file,
            tls_private_key_file,
            warnings: document.repetitions().into_iter().chain(document.misspellings(KEYS)).collect(),
        })
    }
}

/// Finds the document of the kind `KubeletConfiguration`. A second document of this kind is an error.
fn of_kubelet<'a>(path: &'a Path, documents: &'a [Node]) -> Result<Field<'a>, KubeconfigError> {
    let mut found = None;
    let mut other = (Place::new(path, 1, 1, ""), "", "");
    // Backwards, so that an error names the first document of another kind.
    for document in documents.iter().rev() {
        let document = Field::root(path, document);
        let kind = document.text_of("kind")?.unwrap_or_default();
        let api_version = document.text_of("apiVersion")?.unwrap_or_default();
        if kind != KIND || !api_version.starts_with(GROUP) {
            other = (document.place(), kind, api_version);
        } else if let Some(later) = found.replace(document) {
            return Err(later.invalid(format!("a second document of kind {KIND}; keep one")));
        }
    }
    let (at, kind, api_version) = other;
    let reason = format!(
        "this is not kubelet's configuration: kind is {kind:?} and apiVersion {api_version:?}, expected \"{KIND}\" and \
         \"{GROUP}v1beta1\""
    );
    found.ok_or(KubeconfigError::Invalid { at, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KubeletConfig, KubeconfigError> {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        KubeletConfig::parse(Path::new("/var/lib/kubelet/config.yaml"), &format!("{head}{text}"))
    }

    #[test]
    fn parse_reads_only_certificate_settings() {
        let kubeadm = "rotateCertificates: true\nserverTLSBootstrap: false\nclusterDNS: [10.96.0.10]\n\
                       authentication: { x509: { clientCAFile: /etc/kubernetes/pki/ca.crt } }\ncpuManagerPolicy: 7\n";
        let config = parse(kubeadm).unwrap();
        let expected =
            KubeletConfig { rotate_certificates: Some(true), server_tls_bootstrap: Some(false), ..Default::default() };
        assert_eq!(config, expected);
        assert_eq!(parse("").unwrap(), KubeletConfig::default());
    }

    #[test]
    fn file_names_are_relative_to_configuration_file() {
        let config = parse("tlsCertFile: pki/kubelet.crt\ntlsPrivateKeyFile: /etc/kubelet.key").unwrap();
        assert_eq!(config.tls_cert_file.unwrap(), Path::new("/var/lib/kubelet/pki/kubelet.crt"));
        assert_eq!(config.tls_private_key_file.unwrap(), Path::new("/etc/kubelet.key"));
        assert_eq!(parse("tlsCertFile: ''\ntlsPrivateKeyFile: ''").unwrap().tls_cert_file, None);
        let half = parse("tlsCertFile: a.crt").unwrap_err().to_string();
        assert!(half.ends_with("tlsCertFile and tlsPrivateKeyFile belong together: give both, or neither"), "{half}");
    }

    #[test]
    fn repeated_or_misspelt_yaml_key_only_causes_warning_unless_values_differ() {
        for (text, warning) in [
            ("clusterDomain: a\nclusterDomain: b", Some("config.yaml:4:16: the key of this value is repeated")),
            ("evictionHard: {a: 1, a: 2}", Some("config.yaml:3:25: the key of this value is repeated")),
            ("rotateCertificates: true\nrotateCertificates: true", Some("config.yaml:4:21: the key of this value")),
            (
                "ServerTLSBootstrap: true",
                Some("ignoring the unknown key ServerTLSBootstrap; did you mean serverTLSBootstrap?"),
            ),
            (
                "serverTlsBootstrap: true",
                Some("ignoring the unknown key serverTlsBootstrap; did you mean serverTLSBootstrap?"),
            ),
            (
                "rotate_certificates: true",
                Some("ignoring the unknown key rotate_certificates; did you mean rotateCertificates?"),
            ),
            ("tlsCertfile: a", Some("ignoring the unknown key tlsCertfile; did you mean tlsCertFile?")),
            ("tlsPrivateKey: a\ntlsMinVersion: a\ntlsCipherSuites: []\nserverTLSBootstrap: true", None),
        ] {
            let warnings = parse(text).unwrap().warnings;
            let matching =
                warnings.iter().filter(|found| warning.is_some_and(|warning| found.contains(warning))).count();
            assert_eq!(
                (warnings.len(), matching),
                (usize::from(warning.is_some()), warnings.len()),
                "{text}: {warnings:?}"
            );
        }
        let error = parse("rotateCertificates: true\nrotateCertificates: false").unwrap_err().to_string();
        let message = "config.yaml:4:21: rotateCertificates: this key has another value in line 3; keep one of them";
        assert!(error.ends_with(message), "{error}");
    }

    #[test]
    fn parse_takes_only_document_of_kind_kubelet_configuration() {
        let parse = |text: &str| KubeletConfig::parse(Path::new("a"), text);
        let of_kubelet =
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nrotateCertificates: true\n";
        let of_kubeadm = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nrotateCertificates: {}\n";
        for text in [
            format!("---\n{of_kubelet}---\n"),
            format!("{of_kubeadm}---\n{of_kubelet}"),
            format!("{of_kubelet}...\n---\n# nothing\n---\n{of_kubeadm}"),
        ] {
            assert_eq!(parse(&text).unwrap().rotate_certificates, Some(true), "{text}");
        }
        let twice = parse(&format!("{of_kubelet}---\n{of_kubelet}")).unwrap_err().to_string();
        assert!(twice.starts_with("a:5:1: a second document"), "{twice}");
        let none = parse(&format!("{of_kubeadm}---\n")).unwrap_err().to_string();
        assert!(none.contains("kind is \"InitConfiguration\""), "{none}");
    }

    #[test]
    fn yaml_1_1_booleans_are_accepted() {
        for (text, expected) in
            [("true", true), ("yes", true), ("On", true), ("no", false), ("OFF", false), ("n", false)]
        {
            let config = parse(&format!("rotateCertificates: {text}\nserverTLSBootstrap: ~")).unwrap();
            assert_eq!((config.rotate_certificates, config.server_tls_bootstrap), (Some(expected), None), "{text}");
        }
    }

    #[test]
    fn yaml_error_hides_wording_of_parser_library() {
        for (text, message) in [
            ("rotateCertificates: [", "not valid YAML"),
            ("rotateCertificates: 7", "rotateCertificates: expected true or false, found a number"),
            ("tlsCertFile: [a]", "tlsCertFile: expected text, found a list"),
            ("? [a]\n: b", "not valid YAML"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("/var/lib/kubelet/config.yaml:") && error.contains(message), "{text}: {error}");
            for word in ["Options", "from_str", "expected struct", "invalid type", "snippet"] {
                assert!(!error.contains(word), "{error}");
            }
        }
    }

    #[test]
    fn document_of_other_kind_is_refused() {
        let error = parse("rotateCertificates: often").unwrap_err();
        assert!(matches!(&error, KubeconfigError::Invalid { at, .. } if at.line == 3), "{error}");
        for text in ["", "kind: Config\napiVersion: v1", "{}", "kind: KubeletConfiguration"] {
            let error = KubeletConfig::parse(Path::new("a"), text).unwrap_err().to_string();
            assert!(error.contains("KubeletConfiguration") && error.starts_with("a:1:1: "), "{text:?}: {error}");
        }
    }
}
