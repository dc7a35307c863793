//! Kubeconfig files: the API server to use, and the identity to use with it.
//!
//! No I/O: [`Kubeconfig::parse`] takes text. [`Selected`] reads the files that the kubeconfig names, through a function
//! of the caller. Each call reads the files again, so that the caller gets a rotated token or certificate.
//!
//! kubectl's rules hold: file names are relative to the kubeconfig, inline data takes precedence over files, unknown
//! fields are ignored. Features that this crate lacks (exec plugins, auth providers, impersonation …) are an error
//! where the selected user needs them.

pub(crate) mod compose;
pub(crate) mod document;
mod error;
mod opaque;
mod selected;
mod spelling;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use crate::cluster::Proxy;
use document::{Field, Node};
pub use error::{KubeconfigError, Place};
use error::{list, shown};
pub use opaque::Extensions;
pub use selected::Selected;
pub use write::{kubeconfig_with_certificate, kubeconfig_with_token, node_kubeconfig};

/// A function that reads a file named in a kubeconfig, such as `std::fs::read`.
pub type ReadFile<'a> = dyn FnMut(&Path) -> io::Result<Vec<u8>> + 'a;

/// A parsed kubeconfig and its path.
///
/// ```
/// use std::path::Path;
/// use perennial_kubernetes::kubeconfig::Kubeconfig;
/// use perennial_rotation::Identity;
///
/// let text = "
/// clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443'}}]
/// users: [{name: u, user: {token: abcdef.0123456789abcdef}}]
/// contexts: [{name: main, context: {cluster: c, user: u}}]
/// current-context: main
/// ";
/// let kubeconfig = Kubeconfig::parse(Path::new("/etc/kubernetes/bootstrap-kubelet.conf"), text)?;
/// let selected = kubeconfig.select(None)?;
/// // Reads the files that the fields name; this kubeconfig names none.
/// let endpoint = selected.cluster(&mut |path| std::fs::read(path))?;
/// let identity = selected.identity(&mut |path| std::fs::read(path))?;
/// assert_eq!(endpoint.server, "https://10.0.0.1:6443");
/// assert!(matches!(identity, Identity::Token(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(derive_more::Debug)]
#[debug("Kubeconfig {{ path: {path:?}, .. }}")]
pub struct Kubeconfig {
    path: PathBuf,
    root: Node,
    contexts: Vec<String>,
    warnings: Vec<String>,
}

/// The cluster of a kubeconfig: the address of an API server, and how to verify the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL of the API server: `https://host[:port][/path]`.
    pub server: String,
    /// The CA certificates that verify the server, as PEM. `None` if the kubeconfig has no CA. The server is then
    /// verified with the system's CAs, as by kubectl, unless `insecure_skip_tls_verify` is set.
    pub ca_pem: Option<Vec<u8>>,
    /// The file that `ca_pem` was read from; `None` if there is no CA or the kubeconfig holds the CA inline.
    pub ca_file: Option<PathBuf>,
    /// The name that the server's certificate must have; `None`: the host of `server`.
    pub tls_server_name: Option<String>,
    /// True to accept any certificate of the server. Never together with `ca_pem`.
    pub insecure_skip_tls_verify: bool,
    /// The proxy in front of the server, if there is one.
    pub proxy: Option<Proxy>,
    /// `disable-compression`. Has no effect in this crate, which never requests compressed answers. Kept for writing it
    /// into kubeconfigs for this endpoint.
    pub disable_compression: bool,
    /// The cluster's `extensions`: data of other programs.
    pub extensions: Option<Extensions>,
}

impl Kubeconfig {
    /// Parses the text of the kubeconfig at `path`. Does not open `path`: messages show it, and the file names in the
    /// text are relative to its directory. Of several YAML documents the first counts, as for kubectl; empty documents
    /// are skipped.
    ///
    /// # Errors
    /// [`KubeconfigError::Syntax`] if the text is not YAML; [`KubeconfigError::Invalid`] if it does not have the form
    /// of a kubeconfig. The fields of an entry are checked only when the entry is selected.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KubeconfigError> {
        let at_start = || Place::new(path, 1, 1, "");
        if text.trim().is_empty() {
            return Err(KubeconfigError::Invalid { at: at_start(), reason: "the file is empty".into() });
        }
        let (documents, error) = compose::documents(path, text);
        let mut documents = documents.into_iter();
        let Some(root) = documents.next() else {
            let reason = "the file holds no YAML document".into();
            return Err(error.unwrap_or_else(|| KubeconfigError::Invalid { at: at_start(), reason }));
        };
        // As for kubectl, which reads the first document only, an error behind that document is no error of the file.
        let broken = error.map(|error| if let KubeconfigError::Syntax { at, .. } = error { at } else { at_start() });
        let more = documents.next().map(|more| Field::root(path, &more).place()).or(broken);
        let document = Field::root(path, &root);
        expect(&document, "apiVersion", "v1")?;
        expect(&document, "kind", "Config")?;
        entries(&document, "clusters")?;
        entries(&document, "users")?;
        let contexts = entries(&document, "contexts")?.into_iter().map(|(name, _)| name.to_owned()).collect();
        // `select` reads this again; a value of another type is an error of the file.
        document.text_of("current-context")?;
        let mut warnings = Vec::new();
        if let Some(at) = more {
            warnings.push(format!("{at}: a second YAML document follows; only the first one counts, as for kubectl"));
        }
        warnings.extend(document.repetitions());
        warnings.extend(misspellings(&document)?);
        Ok(Self { path: path.to_owned(), root, contexts, warnings })
    }

    /// Warnings about the file, such as a repeated key, or an unknown key that resembles a known key. Each is one line
    /// without secrets.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The names of all contexts, in the order of the file.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().map(String::as_str)
    }

    /// Selects the cluster and the user of `context`, or of the current context if `None`. Reads no files.
    ///
    /// # Errors
    /// [`KubeconfigError::NotFound`] if there is no such context, cluster or user; [`KubeconfigError::Unsupported`] if
    /// the user needs a feature that this crate lacks; [`KubeconfigError::Invalid`] if a field is missing or of the
    /// wrong type.
    pub fn select(&self, context: Option<&str>) -> Result<Selected<'_>, KubeconfigError> {
        let document = Field::root(&self.path, &self.root);
        let (at, name) = match (context, document.get("current-context")?) {
            (Some(name), _) => (document.get("contexts")?.unwrap_or_else(|| document.clone()), name.to_owned()),
            (None, Some(current)) => (current.clone(), current.text()?.to_owned()),
            (None, None) => {
                let known = list(self.contexts());
                return Err(document.invalid(format!(
                    "no current-context is set, and no context was chosen; the contexts are: {known}"
                )));
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
                    // Beside a certificate, client-go sends the password too, and API servers since Kubernetes 1.19
                    // ignore it. Beside a token, client-go refuses the password.
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

const IMPERSONATION: &str = "impersonation is not supported; use the credential of that user";

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

/// Checks that the field `key`, `apiVersion` or `kind`, is absent or has the value `value`.
fn expect(document: &Field<'_>, key: &str, value: &str) -> Result<(), KubeconfigError> {
    match document.get(key)? {
        Some(field) if field.text()? != value => Err(field.invalid(format!(
            "expected \"{value}\"; perennial reads kubeconfigs of kind Config and apiVersion v1 only"
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Warns about each unknown key in the file that resembles a known key.
fn misspellings(document: &Field<'_>) -> Result<Vec<String>, KubeconfigError> {
    let mut warnings = document.misspellings(KEYS);
    for (kind, keys) in [("cluster", CLUSTER_KEYS), ("user", USER_KEYS), ("context", CONTEXT_KEYS)] {
        for item in document.items(&format!("{kind}s"))? {
            warnings.extend(item.misspellings(&["name", kind]));
            // An error in an entry is reported only when the entry is selected.
            warnings.extend(item.get(kind).ok().flatten().iter().flat_map(|entry| entry.misspellings(keys)));
        }
    }
    Ok(warnings)
}

/// The keys that a kubeconfig may have at its top level. Source: the types in
/// `k8s.io/client-go/tools/clientcmd/api/v1`.
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

/// The entries of `list`, such as `clusters`, each with its name. A second entry of the same name is an error.
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
