//! The cluster and the user of a context: the API server's address and CAs, and the identity to use with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial_pki::{Credential, CredentialError, Roots};
use perennial_rotation::{Identity, Token};
use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use super::document::Field;
use super::error::shown;
use super::{Endpoint, Extensions, KubeconfigError, Place, ReadFile};
use crate::cluster::{Cluster, ClusterError, Proxy};
use crate::text;

/// The cluster and the user of the context that [`Kubeconfig::select`](super::Kubeconfig::select) has chosen.
#[derive(derive_more::Debug)]
#[debug("Selected {{ path: {path:?}, .. }}")]
pub struct Selected<'a> {
    pub(super) path: &'a Path,
    pub(super) context: String,
    pub(super) cluster: Field<'a>,
    pub(super) user: Option<Field<'a>>,
}

impl Selected<'_> {
    /// The name of the context.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// Warnings about the user: a user name or password beside a certificate. Each is one line without secrets.
    pub fn warnings(&self) -> Vec<String> {
        let user = self.user.iter();
        let unused = user.flat_map(|user| ["username", "password"].map(|key| user.get(key).ok().flatten()));
        // `select` has refused a password that has no certificate beside it.
        let warn = |field: Field<'_>| {
            let at = field.place();
            format!("{at}: basic authentication is not supported; only the client certificate is used")
        };
        unused.flatten().map(warn).collect()
    }

    /// The API server of the context. Reads the CA file if the CA is not inline.
    ///
    /// # Errors
    /// [`KubeconfigError`]: the address is missing or unusable, or the CA is unreadable or unusable.
    pub fn cluster(&self, read: &mut ReadFile<'_>) -> Result<Endpoint, KubeconfigError> {
        let cluster = &self.cluster;
        let server = server(&cluster.require("server")?)?;
        let tls_server_name = cluster.get("tls-server-name")?.map(|name| server_name(&name)).transpose()?;
        let ca = self.data_or_file(cluster, "certificate-authority", read)?;
        if ca.is_none() {
            let fields = ["certificate-authority", "certificate-authority-data"];
            if let Some(empty) = fields.into_iter().find_map(|key| cluster.empty(key)) {
                // Falling back to the system's CAs would trust more than the author of an empty field meant.
                return Err(empty.invalid("this is empty; set the cluster's CA or remove the field"));
            }
        }
        let insecure = cluster.get("insecure-skip-tls-verify")?;
        let insecure_skip_tls_verify = insecure.as_ref().map(Field::flag).transpose()?.unwrap_or(false);
        if let (Some(insecure), Some(ca), true) = (&insecure, &ca, insecure_skip_tls_verify) {
            let ca = ca.at.field.rsplit('.').next().unwrap_or_default();
            return Err(insecure.invalid(format!("insecure-skip-tls-verify and {ca} exclude each other; remove one")));
        }
        let (ca_pem, ca_file) = match ca {
            Some(Content { at, file, bytes }) => match Roots::from_pem(&bytes) {
                Ok(_) => (Some(bytes.to_vec()), file),
                Err(error) => return Err(KubeconfigError::Invalid { at, reason: error.to_string() }),
            },
            None => (None, None),
        };
        let proxy = cluster.get("proxy-url")?.map(|url| proxy(&url)).transpose()?;
        let disable_compression = cluster.flag_of("disable-compression")?.unwrap_or(false);
        let extensions = cluster.get("extensions")?.map(|field| Extensions::of(field.node()));
        Ok(Endpoint {
            server,
            ca_pem,
            ca_file,
            tls_server_name,
            insecure_skip_tls_verify,
            proxy,
            disable_compression,
            extensions,
        })
    }

    /// The identity of the user at the time of the call: each call reads the files again. A token file takes precedence
    /// over an inline token; the inline token is used only while the file cannot be read.
    ///
    /// # Errors
    /// [`KubeconfigError`]: a token, certificate or key is unreadable or unusable, or certificate and key do not belong
    /// together.
    pub fn identity(&self, read: &mut ReadFile<'_>) -> Result<Identity, KubeconfigError> {
        let Some(user) = &self.user else { return Ok(Identity::Anonymous) };
        let token = self.token(user, read)?;
        Ok(match (token, self.credential(user, read)?.map(Arc::new)) {
            (None, None) => Identity::Anonymous,
            (Some(token), None) => Identity::Token(token),
            (None, Some(credential)) => Identity::Certificate(credential),
            (Some(token), Some(credential)) => Identity::CertificateAndToken(credential, token),
        })
    }

    /// The token of `user`, from the token file if the user has one; `None` if the user has no token.
    fn token(&self, user: &Field<'_>, read: &mut ReadFile<'_>) -> Result<Option<Token>, KubeconfigError> {
        let inline = user.get("token")?;
        if let Some(field) = user.get("tokenFile")? {
            match (self.content(&field, read), &inline) {
                (Ok(Content { at, bytes, .. }), _) => {
                    let text = text::decode(&bytes).ok();
                    let token = text.as_deref().and_then(|text| bearer_token(text));
                    let reason = "this file does not hold a bearer token".to_owned();
                    return token.ok_or(KubeconfigError::Invalid { at, reason }).map(Some);
                }
                // As in client-go, whose transport sends the inline token while the file cannot be read.
                (Err(KubeconfigError::Unreadable { .. }), Some(_)) => {}
                (Err(error), _) => return Err(error),
            }
        }
        let Some(field) = inline else { return Ok(None) };
        bearer_token(field.text()?).ok_or_else(|| field.invalid("this is not a bearer token")).map(Some)
    }

    /// The client certificate of `user` with its key; `None` if the user has no certificate.
    fn credential(&self, user: &Field<'_>, read: &mut ReadFile<'_>) -> Result<Option<Credential>, KubeconfigError> {
        let certificate = self.data_or_file(user, "client-certificate", read)?;
        let (certificate, key) = match (certificate, self.data_or_file(user, "client-key", read)?) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return Err(user.invalid("there is a client certificate but no client key")),
            (None, Some(_)) => return Err(user.invalid("there is a client key but no client certificate")),
        };
        Credential::from_pair(&certificate.bytes, &key.bytes).map(Some).map_err(|error| match error {
            CredentialError::Chain(_) => KubeconfigError::Credential { at: certificate.at, error },
            CredentialError::Key(_) => KubeconfigError::Credential { at: key.at, error },
            error => KubeconfigError::Mismatch { certificate: certificate.at, key: key.at, error },
        })
    }

    /// The data of a certificate or key: the field `NAME-data`, decoded, or else the content of the file that the field
    /// `NAME` names. `None` if both fields are absent.
    fn data_or_file(
        &self,
        entry: &Field<'_>,
        name: &str,
        read: &mut ReadFile<'_>,
    ) -> Result<Option<Content>, KubeconfigError> {
        if let Some(data) = entry.get(&format!("{name}-data"))? {
            let mut base64 = Zeroizing::new(data.text()?.as_bytes().to_vec());
            base64.retain(|byte| !byte.is_ascii_whitespace());
            let bytes = STANDARD.decode(&*base64).map_err(|_| data.invalid("this is not base64"))?;
            return Ok(Some(Content { at: data.place(), file: None, bytes: Zeroizing::new(bytes) }));
        }
        entry.get(name)?.map(|field| self.content(&field, read)).transpose()
    }

    /// The content of the file that a field names, relative to the directory of the kubeconfig.
    fn content(&self, field: &Field<'_>, read: &mut ReadFile<'_>) -> Result<Content, KubeconfigError> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new(""));
        let name = field.text()?;
        let file = directory.join(name);
        let read = read(&file);
        let at = Box::new(Place { names: Some(directory.join(shown(name))), ..*field.place() });
        match read {
            Ok(bytes) => Ok(Content { at, file: Some(file), bytes: Zeroizing::new(bytes) }),
            Err(error) => Err(KubeconfigError::Unreadable { at, error }),
        }
    }
}

/// Bytes from an inline field or a file, and their origin for messages.
struct Content {
    at: Box<Place>,
    file: Option<PathBuf>,
    bytes: Zeroizing<Vec<u8>>,
}

fn server(field: &Field<'_>) -> Result<String, KubeconfigError> {
    let text = field.text()?;
    match Cluster::from_url(text) {
        // The error does not show the address: after an unclosed quote it may be half the file.
        Err(ClusterError::Url { why, .. }) => Err(field.invalid(why)),
        Err(error) => Err(field.invalid(error.to_string())),
        Ok(_) => Ok(text.trim().to_owned()),
    }
}

fn server_name(field: &Field<'_>) -> Result<String, KubeconfigError> {
    let text = field.text()?;
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(field.invalid("this is neither a DNS name nor an IP address")),
    }
}

fn proxy(field: &Field<'_>) -> Result<Proxy, KubeconfigError> {
    Proxy::from_url(field.text()?).map_err(|error| field.invalid(error.to_string()))
}

/// Reads a bearer token. `None` for a malformed token, and for one of more than 512 KiB: API servers accept 1 MiB for
/// all headers of a request together.
fn bearer_token(text: &str) -> Option<Token> {
    const LONGEST: usize = 512 << 10;
    Token::new(text).ok().filter(|token| token.reveal().len() <= LONGEST)
}
