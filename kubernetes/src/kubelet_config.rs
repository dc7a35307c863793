//! What kubelet's configuration file says about certificates. The rest of it is none of our concern.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What `kubelet.config.k8s.io/v1beta1` says about certificates. `None`: the file does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KubeletConfig {
    /// `rotateCertificates`: the client certificate is kept rotated.
    pub rotate_certificates: Option<bool>,
    /// `serverTLSBootstrap`: the serving certificate is asked for, and kept rotated.
    pub server_tls_bootstrap: Option<bool>,
    /// `tlsCertFile`: a serving certificate that somebody else keeps.
    pub tls_cert_file: Option<PathBuf>,
    /// `tlsPrivateKeyFile`: the key that belongs to it.
    pub tls_private_key_file: Option<PathBuf>,
}

const KIND: &str = "KubeletConfiguration";
const GROUP: &str = "kubelet.config.k8s.io/";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    kind: Option<String>,
    api_version: Option<String>,
    rotate_certificates: Option<bool>,
    #[serde(rename = "serverTLSBootstrap")]
    server_tls_bootstrap: Option<bool>,
    tls_cert_file: Option<String>,
    tls_private_key_file: Option<String>,
}

impl KubeletConfig {
    /// Reads the text, YAML or JSON, of the file at `path`. The path is not opened: names of files in it are
    /// meant from there, as kubelet means them.
    ///
    /// # Errors
    /// [`KubeletConfigError`] if it is no such file, or something we need in it is of the wrong kind.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KubeletConfigError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let Text { kind, api_version, rotate_certificates, server_tls_bootstrap, tls_cert_file, tls_private_key_file } =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                let location = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
                let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
                KubeletConfigError::Text { line: location.line(), column: location.column(), reason }
            })?;
        let kind = kind.unwrap_or_default();
        let api_version = api_version.unwrap_or_default();
        if kind != KIND || !api_version.starts_with(GROUP) {
            return Err(KubeletConfigError::Kind { kind, api_version });
        }
        let from = path.parent().unwrap_or_else(|| Path::new(""));
        let file = |name: Option<String>| name.filter(|name| !name.is_empty()).map(|name| from.join(name));
        let config = Self {
            rotate_certificates,
            server_tls_bootstrap,
            tls_cert_file: file(tls_cert_file),
            tls_private_key_file: file(tls_private_key_file),
        };
        match (&config.tls_cert_file, &config.tls_private_key_file) {
            (Some(_), None) | (None, Some(_)) => Err(KubeletConfigError::HalfAPair),
            _ => Ok(config),
        }
    }
}

/// Why a file is not a configuration of kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KubeletConfigError {
    /// It is not YAML, or a field is of the wrong kind.
    Text {
        /// Where.
        line: u64,
        /// Where in it.
        column: u64,
        /// What is wrong.
        reason: String,
    },
    /// It is something else.
    Kind {
        /// Its kind.
        kind: String,
        /// Its API version.
        api_version: String,
    },
    /// It names a certificate file without a key file, or the other way round.
    HalfAPair,
}

impl fmt::Display for KubeletConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { line, column, reason } => write!(f, "line {line}, column {column}: {reason}"),
            Self::Kind { kind, api_version } => write!(
                f,
                "this is not kubelet's configuration: kind is {kind:?} and apiVersion {api_version:?}, \
                 expected \"{KIND}\" and \"{GROUP}v1beta1\""
            ),
            Self::HalfAPair => f.write_str("tlsCertFile and tlsPrivateKeyFile belong together: give both, or neither"),
        }
    }
}

impl std::error::Error for KubeletConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KubeletConfig, KubeletConfigError> {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        KubeletConfig::parse(Path::new("/var/lib/kubelet/config.yaml"), &format!("{head}{text}"))
    }

    #[test]
    fn what_it_says_about_certificates_is_read_and_the_rest_is_not() {
        let kubeadm = "rotateCertificates: true\nserverTLSBootstrap: false\nclusterDNS: [10.96.0.10]\n\
                       authentication: { x509: { clientCAFile: /etc/kubernetes/pki/ca.crt } }\ncpuManagerPolicy: 7\n";
        let config = parse(kubeadm).unwrap();
        let expected =
            KubeletConfig { rotate_certificates: Some(true), server_tls_bootstrap: Some(false), ..Default::default() };
        assert_eq!(config, expected);
        assert_eq!(parse("").unwrap(), KubeletConfig::default());
    }

    #[test]
    fn files_are_meant_from_where_the_configuration_lies() {
        let config = parse("tlsCertFile: pki/kubelet.crt\ntlsPrivateKeyFile: /etc/kubelet.key").unwrap();
        assert_eq!(config.tls_cert_file.unwrap(), Path::new("/var/lib/kubelet/pki/kubelet.crt"));
        assert_eq!(config.tls_private_key_file.unwrap(), Path::new("/etc/kubelet.key"));
        assert_eq!(parse("tlsCertFile: ''\ntlsPrivateKeyFile: ''").unwrap().tls_cert_file, None);
        assert_eq!(parse("tlsCertFile: a.crt"), Err(KubeletConfigError::HalfAPair));
    }

    #[test]
    fn what_is_not_kubelets_configuration_says_what_and_where() {
        let error = parse("rotateCertificates: often").unwrap_err();
        assert!(matches!(error, KubeletConfigError::Text { line: 3, .. }), "{error}");
        for text in ["", "kind: Config\napiVersion: v1", "{}", "kind: KubeletConfiguration"] {
            let error = KubeletConfig::parse(Path::new("a"), text).unwrap_err().to_string();
            assert!(error.contains("KubeletConfiguration") || error.contains("line"), "{text:?}: {error}");
        }
    }
}
