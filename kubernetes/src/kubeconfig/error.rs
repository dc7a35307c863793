//! What can be wrong with a kubeconfig.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use perennial_pki::{ChainError, CredentialError, KeyError};

/// Where in a kubeconfig something stands: `/etc/kubernetes/kubelet.conf:5:13: clusters[0].cluster.server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kubeconfig.
    pub file: PathBuf,
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    /// The path of the field; empty for the document as a whole.
    pub field: String,
    /// The file the field names, if it names one and that is what matters; its name as far as the first space.
    pub names: Option<PathBuf>,
}

impl Place {
    pub(crate) fn new(file: &Path, line: u64, column: u64, field: &str) -> Box<Self> {
        Box::new(Self { file: file.to_owned(), line, column, field: field.to_owned(), names: None })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        self.names.as_ref().map_or(Ok(()), |names| write!(f, " ({})", names.display()))
    }
}

/// Why a kubeconfig cannot be used. No message holds anything secret from the file.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// It is not YAML (or JSON).
    #[error("{at}: not valid YAML: {reason}")]
    Syntax {
        /// Where parsing stopped.
        at: Box<Place>,
        /// What the parser met.
        reason: String,
    },
    /// A field is missing, of the wrong type, or its value makes no sense.
    #[error("{at}: {reason}")]
    Invalid {
        /// The field, or the one in which it is missing.
        at: Box<Place>,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// A field asks for something this crate does not do.
    #[error("{at} of \"{entry}\": {reason}")]
    Unsupported {
        /// The field.
        at: Box<Place>,
        /// The name of the cluster or user that has it, as far as its first space.
        entry: String,
        /// What is not done, and what to do instead.
        reason: &'static str,
    },
    /// There is no context, cluster or user of this name.
    #[error("{at}: there is no {kind} \"{name}\"; there are: {known}")]
    NotFound {
        /// The field that names it; for a context the caller asked for, the list of contexts.
        at: Box<Place>,
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name, as far as its first space.
        name: String,
        /// The names there are, quoted, with commas between them; or `none`.
        known: String,
    },
    /// A file named in the kubeconfig cannot be read.
    #[error("{at}: cannot be read: {error}")]
    Unreadable {
        /// The field that names the file.
        at: Box<Place>,
        /// Why.
        error: io::Error,
    },
    /// The certificate authority holds no usable certificate.
    #[error("{at}: {error}")]
    CertificateAuthority {
        /// Where it is.
        at: Box<Place>,
        /// Why.
        error: ChainError,
    },
    /// The client certificate is not one.
    #[error("{at}: {error}")]
    Certificate {
        /// Where it is.
        at: Box<Place>,
        /// Why.
        error: ChainError,
    },
    /// The client key is not one.
    #[error("{at}: {error}")]
    Key {
        /// Where it is.
        at: Box<Place>,
        /// Why.
        error: KeyError,
    },
    /// The client certificate and the key do not belong together.
    #[error("{certificate} and {key}: {error}")]
    Mismatch {
        /// Where the certificate is.
        certificate: Box<Place>,
        /// Where the key is.
        key: Box<Place>,
        /// Why not.
        error: CredentialError,
    },
}

/// A name or path as it may be shown: as far as its first space. After a quote that is not closed, a "name" may be half
/// the file, keys and tokens included.
pub(crate) fn shown(name: &str) -> String {
    match name.find(|c: char| c.is_whitespace() || c.is_control()) {
        Some(end) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// All names, as they may be shown.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = names.into_iter().map(|name| format!("\"{}\"", shown(name))).collect();
    if quoted.is_empty() { "none".into() } else { quoted.join(", ") }
}
