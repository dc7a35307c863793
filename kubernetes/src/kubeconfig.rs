//! Kubeconfig files: which API server, and who we are to it.
//!
//! Pure: [`Kubeconfig::parse`] takes text, and the files it names are read through a function of the caller's, each
//! time they are asked for, so that a rotated token or certificate is seen. kubectl's rules hold: file names are
//! relative to the kubeconfig, inline data goes before files, unknown fields are ignored. What this crate does not do
//! (exec plugins, proxies, impersonation …) is refused where it would be needed, never silently skipped.

pub(crate) mod document;
mod error;
mod opaque;
mod spelling;
mod write;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial_pki::{Credential, CredentialError, Roots};
use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use crate::cluster::{Cluster, ClusterError, Proxy};
use crate::text;
use document::{Field, Node};
pub use error::{KubeconfigError, Place};
use error::{list, shown};
pub use opaque::Extensions;
pub use write::{kubeconfig_with_certificate, kubeconfig_with_token, node_kubeconfig};

/// Reads a file named in a kubeconfig; `std::fs::read` is one.
pub type ReadFile<'a> = dyn FnMut(&Path) -> io::Result<Vec<u8>> + 'a;

/// A parsed kubeconfig and the path it came from.
pub struct Kubeconfig {
    path: PathBuf,
    root: Node,
    current_context: Option<String>,
    contexts: Vec<String>,
    warnings: Vec<String>,
}

/// An API server and how to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://host[:port][/path]`.
    pub server: String,
    /// The certificates of the authorities that may vouch for the server, PEM. `None`: none are named, and those of the
    /// system count, as for kubectl, unless verification is skipped.
    pub ca_pem: Option<Vec<u8>>,
    /// The file `ca_pem` came from; `None` if it was inline.
    pub ca_file: Option<PathBuf>,
    /// The name the server's certificate must have, if not the host of `server`.
    pub tls_server_name: Option<String>,
    /// Talk to whoever answers. Never together with `ca_pem`.
    pub insecure_skip_tls_verify: bool,
    /// The proxy in between.
    pub proxy: Option<Proxy>,
    /// Answers are not to be compressed. This program never asks for that; who reads what it writes may.
    pub disable_compression: bool,
    /// What other programs keep here.
    pub extensions: Option<Extensions>,
}

/// Who we are to the API server.
#[derive(Clone)]
pub enum Credentials {
    /// Nobody in particular.
    Anonymous,
    /// The holder of this bearer token.
    Token(Zeroizing<String>),
    /// The subject of this certificate.
    Certificate(Arc<Credential>),
    /// Both: the certificate is for TLS, the token for each request.
    CertificateAndToken(Arc<Credential>, Zeroizing<String>),
}

impl Kubeconfig {
    /// Parses the text of the kubeconfig at `path`. The path is not opened: it is for messages, and for the file names
    /// in the text, which are relative to its directory. Of several YAML documents the first one counts, as for kubectl.
    ///
    /// # Errors
    /// The text is not YAML, or not of a kubeconfig's shape. Entries are looked into only when they are selected.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KubeconfigError> {
        let at_start = || Place::new(path, 1, 1, "");
        if text.trim().is_empty() {
            return Err(KubeconfigError::Invalid { at: at_start(), reason: "the file is empty".into() });
        }
        let (documents, error) = Node::documents(path, text);
        let mut documents = documents.into_iter();
        let (root, more) = match (documents.next(), documents.next(), error) {
            (Some(root), more, error) => (root, more.is_some() || error.is_some()),
            (None, _, Some(error)) => return Err(error),
            (None, _, None) => {
                return Err(KubeconfigError::Invalid { at: at_start(), reason: "there is nothing in the file".into() });
            }
        };
        let document = Field::root(path, &root);
        expect(&document, "apiVersion", "v1")?;
        expect(&document, "kind", "Config")?;
        entries(&document, "clusters")?;
        entries(&document, "users")?;
        let contexts = entries(&document, "contexts")?.into_iter().map(|(name, _)| name.to_owned()).collect();
        let current_context = document.get("current-context")?.map(|name| name.text()).transpose()?.map(str::to_owned);
        let mut warnings = Vec::new();
        if more {
            let at = at_start();
            warnings.push(format!("{at}: a second YAML document follows; only the first one counts, as for kubectl"));
        }
        warnings.extend(document.repetitions());
        warnings.extend(misspellings(&document)?);
        Ok(Self { path: path.to_owned(), root, current_context, contexts, warnings })
    }

    /// What is odd in the file and does no harm, such as a key given twice or one that looks misspelt: one line each, for
    /// people, and without anything secret.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the context used when none is asked for.
    pub fn current_context(&self) -> Option<&str> {
        self.current_context.as_deref()
    }

    /// The names of all contexts, in the file's order.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().map(String::as_str)
    }

    /// The cluster and the user of a context, or of the current one.
    ///
    /// # Errors
    /// There is no such context, cluster or user, or one of them asks for what is not supported.
    pub fn select(&self, context: Option<&str>) -> Result<Selected<'_>, KubeconfigError> {
        let document = Field::root(&self.path, &self.root);
        let (at, name) = match (context, document.get("current-context")?) {
            (Some(name), _) => (document.get("contexts")?.unwrap_or_else(|| document.clone()), name.to_owned()),
            (None, Some(current)) => (current.clone(), current.text()?.to_owned()),
            (None, None) => {
                let known = list(self.contexts());
                return Err(
                    document.invalid(format!("no current-context is set and none was asked for; there are: {known}"))
                );
            }
        };
        let context = find(&document, &at, "context", &name)?.require("context")?;

        let cluster_name = context.require("cluster")?;
        let cluster = find(&document, &cluster_name, "cluster", cluster_name.text()?)?.require("cluster")?;

        let user = match context.get("user")? {
            Some(user_name) => {
                let user = find(&document, &user_name, "user", user_name.text()?)?.get("user")?;
                if let Some(user) = &user {
                    refuse(user, user_name.text()?, UNSUPPORTED_IN_USER)?;
                    // client-go sends both, and no API server since Kubernetes 1.19 looks at the password. Beside a
                    // token client-go refuses it, too.
                    if !has_certificate(user)? || user.get("token")?.or(user.get("tokenFile")?).is_some() {
                        refuse(user, user_name.text()?, BASIC_AUTHENTICATION)?;
                    }
                }
                user
            }
            None => None,
        };
        Ok(Selected { path: &self.path, context: name, cluster, user })
    }
}

impl fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubeconfig").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Certificate(_) => f.write_str("Certificate(..)"),
            Self::CertificateAndToken(..) => f.write_str("CertificateAndToken(..)"),
        }
    }
}

/// A context's cluster and user.
pub struct Selected<'a> {
    path: &'a Path,
    context: String,
    cluster: Field<'a>,
    user: Option<Field<'a>>,
}

impl Selected<'_> {
    /// The name of the context.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// What is odd about the user and does no harm: one line each, for people, and without anything secret.
    pub fn warnings(&self) -> Vec<String> {
        let user = self.user.iter();
        let unused = user.flat_map(|user| ["username", "password"].map(|key| user.get(key).ok().flatten()));
        // With anything but a certificate beside it, it has been refused.
        let warn = |field: Field<'_>| {
            let at = field.place();
            format!("{at}: basic authentication is not supported; only the client certificate is used")
        };
        unused.flatten().map(warn).collect()
    }

    /// The API server. Reads the certificate authority, if it is in a file.
    ///
    /// # Errors
    /// The address or the certificate authority is missing, unreadable or unusable.
    pub fn cluster(&self, read: &mut ReadFile<'_>) -> Result<Endpoint, KubeconfigError> {
        let cluster = &self.cluster;
        let server = server(&cluster.require("server")?)?;
        let tls_server_name = cluster.get("tls-server-name")?.map(|name| server_name(&name)).transpose()?;
        let ca = self.data_or_file(cluster, "certificate-authority", read)?;
        if ca.is_none() {
            let fields = ["certificate-authority", "certificate-authority-data"];
            if let Some(empty) = fields.into_iter().find_map(|key| cluster.empty(key)) {
                // Whoever wrote it meant some CA, and no other's.
                return Err(empty.invalid("this is empty; give the cluster's CA, or leave the field out"));
            }
        }
        let insecure = cluster.get("insecure-skip-tls-verify")?;
        let insecure_skip_tls_verify = insecure.as_ref().map(Field::flag).transpose()?.unwrap_or(false);
        if let (Some(insecure), Some(ca), true) = (&insecure, &ca, insecure_skip_tls_verify) {
            let ca = ca.at.field.rsplit('.').next().unwrap_or_default();
            return Err(insecure.invalid(format!("verification cannot be both skipped and done with {ca}; remove one")));
        }
        let (ca_pem, ca_file) = match ca {
            Some(Content { at, file, bytes }) => match Roots::from_pem(&bytes) {
                Ok(_) => (Some(bytes.to_vec()), file),
                Err(error) => return Err(KubeconfigError::CertificateAuthority { at, error }),
            },
            None => (None, None),
        };
        let proxy = cluster.get("proxy-url")?.map(|url| proxy(&url)).transpose()?;
        let disable_compression = cluster.get("disable-compression")?.as_ref().map(Field::flag).transpose()?;
        let extensions = cluster.get("extensions")?.map(|field| Extensions::of(field.node()));
        Ok(Endpoint {
            server,
            ca_pem,
            ca_file,
            tls_server_name,
            insecure_skip_tls_verify,
            proxy,
            disable_compression: disable_compression.unwrap_or(false),
            extensions,
        })
    }

    /// Who we are, now: files are read at each call. A token file goes before an inline token, which serves only as
    /// long as the file cannot be read.
    ///
    /// # Errors
    /// A token, certificate or key is unreadable or unusable, or they do not fit together.
    pub fn identity(&self, read: &mut ReadFile<'_>) -> Result<Credentials, KubeconfigError> {
        let Some(user) = &self.user else { return Ok(Credentials::Anonymous) };
        let token = self.token(user, read)?;
        let credential = self.credential(user, read)?;
        match (token, credential) {
            (None, None) => Ok(Credentials::Anonymous),
            (Some(token), None) => Ok(Credentials::Token(token)),
            (None, Some(credential)) => Ok(Credentials::Certificate(Arc::new(credential))),
            (Some(token), Some(credential)) => Ok(Credentials::CertificateAndToken(Arc::new(credential), token)),
        }
    }

    fn token(&self, user: &Field<'_>, read: &mut ReadFile<'_>) -> Result<Option<Zeroizing<String>>, KubeconfigError> {
        let inline = user.get("token")?;
        if let Some(field) = user.get("tokenFile")? {
            match (self.content(&field, read), &inline) {
                (Ok(Content { at, bytes, .. }), _) => {
                    let text = text::decode(&bytes).ok();
                    let token = text.as_deref().and_then(|text| bearer_token(text));
                    let reason = "this file does not hold a bearer token".to_owned();
                    return token.ok_or(KubeconfigError::Invalid { at, reason }).map(Some);
                }
                (Err(KubeconfigError::Unreadable { .. }), Some(_)) => {}
                (Err(error), _) => return Err(error),
            }
        }
        let Some(field) = inline else { return Ok(None) };
        bearer_token(field.text()?).ok_or_else(|| field.invalid("this is not a bearer token")).map(Some)
    }

    fn credential(&self, user: &Field<'_>, read: &mut ReadFile<'_>) -> Result<Option<Credential>, KubeconfigError> {
        let certificate = self.data_or_file(user, "client-certificate", read)?;
        let (certificate, key) = match (certificate, self.data_or_file(user, "client-key", read)?) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return Err(user.invalid("there is a client certificate but no client key")),
            (None, Some(_)) => return Err(user.invalid("there is a client key but no client certificate")),
        };
        match Credential::from_pair(&certificate.bytes, &key.bytes) {
            Ok(credential) => Ok(Some(credential)),
            Err(CredentialError::Chain(error)) => Err(KubeconfigError::Certificate { at: certificate.at, error }),
            Err(CredentialError::Key(error)) => Err(KubeconfigError::Key { at: key.at, error }),
            Err(error) => Err(KubeconfigError::Mismatch { certificate: certificate.at, key: key.at, error }),
        }
    }

    /// The field `name`-data, decoded, or the content of the file that the field `name` names.
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

    /// The content of the file a field names, relative to the kubeconfig's directory.
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

impl fmt::Debug for Selected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selected").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Something inline or in a file, and where it came from.
struct Content {
    at: Box<Place>,
    file: Option<PathBuf>,
    bytes: Zeroizing<Vec<u8>>,
}

const UNSUPPORTED_IN_USER: &[(&str, &str)] = &[
    ("exec", "exec plugins are not supported; use a client certificate, token or tokenFile"),
    ("auth-provider", "auth providers are not supported; use a client certificate, token or tokenFile"),
    ("as", IMPERSONATION),
    ("as-uid", IMPERSONATION),
    ("as-groups", IMPERSONATION),
    ("as-user-extra", IMPERSONATION),
];

const BASIC_AUTHENTICATION: &[(&str, &str)] = &[
    ("username", "basic authentication is not supported; use a client certificate, token or tokenFile"),
    ("password", "basic authentication is not supported; use a client certificate, token or tokenFile"),
];

const IMPERSONATION: &str = "impersonation is not supported; use credentials of that user's own";

fn has_certificate(user: &Field<'_>) -> Result<bool, KubeconfigError> {
    Ok(user.get("client-certificate")?.or(user.get("client-certificate-data")?).is_some())
}

fn refuse(entry: &Field<'_>, name: &str, unsupported: &[(&str, &'static str)]) -> Result<(), KubeconfigError> {
    for (key, reason) in unsupported {
        if let Some(field) = entry.get(key)? {
            return Err(KubeconfigError::Unsupported { at: field.place(), entry: shown(name), reason });
        }
    }
    Ok(())
}

/// `apiVersion` and `kind` may be left out, but not be another's.
fn expect(document: &Field<'_>, key: &str, value: &str) -> Result<(), KubeconfigError> {
    match document.get(key)? {
        Some(field) if field.text()? != value => {
            Err(field.invalid(format!("expected \"{value}\"; this is not a kubeconfig this program knows")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Warnings about keys that look like one that is read, in the file as a whole.
fn misspellings(document: &Field<'_>) -> Result<Vec<String>, KubeconfigError> {
    let mut warnings = document.misspellings(KEYS);
    for (kind, keys) in [("cluster", CLUSTER_KEYS), ("user", USER_KEYS), ("context", CONTEXT_KEYS)] {
        for item in document.items(&format!("{kind}s"))? {
            warnings.extend(item.misspellings(&["name", kind]));
            // What is in an entry that is not selected may be odd.
            warnings.extend(item.get(kind).ok().flatten().iter().flat_map(|entry| entry.misspellings(keys)));
        }
    }
    Ok(warnings)
}

/// Source: `k8s.io/client-go/tools/clientcmd/api/v1`.
const KEYS: &[&str] =
    &["apiVersion", "kind", "preferences", "clusters", "users", "contexts", "current-context", "extensions"];
const CLUSTER_KEYS: &[&str] = &[
    "server",
    "tls-server-name",
    "insecure-skip-tls-verify",
    "certificate-authority",
    "certificate-authority-data",
    "proxy-url",
    "disable-compression",
    "extensions",
];
const USER_KEYS: &[&str] = &[
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "token",
    "tokenFile",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
    "username",
    "password",
    "auth-provider",
    "exec",
    "extensions",
];
const CONTEXT_KEYS: &[&str] = &["cluster", "user", "namespace", "extensions"];

/// The items of a list of named things, by name.
fn entries<'a>(document: &Field<'a>, list: &str) -> Result<Vec<(&'a str, Field<'a>)>, KubeconfigError> {
    let mut entries: Vec<(&str, Field<'a>)> = Vec::new();
    for item in document.items(list)? {
        let field = item.require("name")?;
        let name = field.text()?;
        if entries.iter().any(|(other, _)| *other == name) {
            return Err(field.invalid(format!("a second entry is named \"{}\"; remove or rename one", shown(name))));
        }
        entries.push((name, item));
    }
    Ok(entries)
}

fn find<'a>(
    document: &Field<'a>,
    at: &Field<'a>,
    kind: &'static str,
    name: &str,
) -> Result<Field<'a>, KubeconfigError> {
    let entries = entries(document, &format!("{kind}s"))?;
    let known = list(entries.iter().map(|(name, _)| *name));
    let found = entries.into_iter().find_map(|(other, item)| (other == name).then_some(item));
    found.ok_or_else(|| KubeconfigError::NotFound { at: at.place(), kind, name: shown(name), known })
}

fn server(field: &Field<'_>) -> Result<String, KubeconfigError> {
    let text = field.text()?;
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if scheme.eq_ignore_ascii_case("http") {
        return Err(field.invalid("plain HTTP is not supported, it would show the credentials to anyone; use https://"));
    }
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err(field.invalid("credentials do not belong in the address"));
    }
    if !scheme.eq_ignore_ascii_case("https") || host.is_empty() || !rest.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(field.invalid("expected an address like https://10.0.0.1:6443"));
    }
    match Cluster::from_url(text) {
        // The address itself may be half the file, after a quote that is not closed.
        Err(ClusterError::Url { why, .. }) => Err(field.invalid(why)),
        Err(error) => Err(field.invalid(error.to_string())),
        Ok(_) => Ok(text.to_owned()),
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

/// A token is sent in an HTTP header, so it is one word of visible ASCII, and API servers take no more than 1 MiB of
/// headers. White space around it is not part of it.
fn bearer_token(text: &str) -> Option<Zeroizing<String>> {
    const LONGEST: usize = 512 << 10;
    let token = text.trim();
    (!token.is_empty() && token.len() <= LONGEST && token.bytes().all(|b| b.is_ascii_graphic()))
        .then(|| Zeroizing::new(token.to_owned()))
}
