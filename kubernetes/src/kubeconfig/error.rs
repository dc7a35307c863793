//! Errors of kubeconfig files and of kubelet's configuration, with the place in the file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use perennial_pki::CredentialError;

/// A place in a configuration file, displayed as `/etc/kubernetes/kubelet.conf:5:13: clusters[0].cluster.server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path of the configuration file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: u64,
    /// The column, counted from 1 in characters.
    pub column: u64,
    /// The path of the field in the document; empty for the whole document.
    pub field: String,
    /// The file that the field names, if the error is about that file. The name is cut at its first space.
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

/// Why a kubeconfig, or kubelet's configuration, cannot be used. No message shows a secret of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeconfigError {
    /// The text is not YAML (or JSON).
    #[error("{at}: not valid YAML: {reason}")]
    Syntax {
        /// The place at which the parser stopped.
        at: Box<Place>,
        /// The problem that the parser found.
        reason: String,
    },
    /// A field is missing, of the wrong type, or has an invalid value.
    #[error("{at}: {reason}")]
    Invalid {
        /// The field, or the mapping in which it is missing.
        at: Box<Place>,
        /// The problem, and the remedy if there is one.
        reason: String,
    },
    /// A field needs a feature that this crate lacks.
    #[error("{at} of \"{entry}\": {reason}")]
    Unsupported {
        /// The field that needs the feature.
        at: Box<Place>,
        /// The name of the user whose entry has the field, cut at its first space.
        entry: String,
        /// The missing feature, and the alternative.
        reason: &'static str,
    },
    /// There is no context, cluster or user of this name.
    #[error("{at}: there is no {kind} \"{name}\"; there are: {known}")]
    NotFound {
        /// The field that has the missing name as its value. If the caller chose a context by name, the list of
        /// contexts.
        at: Box<Place>,
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name, cut at its first space.
        name: String,
        /// The existing names, quoted, with commas between them; or `none`.
        known: String,
    },
    /// A file named in the kubeconfig cannot be read.
    #[error("{at}: cannot be read: {error}")]
    Unreadable {
        /// The field that names the file.
        at: Box<Place>,
        /// The error of reading the file.
        error: io::Error,
    },
    /// The text of the client certificate or of its key is malformed or not supported.
    #[error("{at}: {error}")]
    Credential {
        /// The field of the certificate or of the key.
        at: Box<Place>,
        /// The problem with the certificate or the key.
        error: CredentialError,
    },
    /// The client certificate and the key do not belong together.
    #[error("{certificate} and {key}: {error}")]
    Mismatch {
        /// The field of the certificate.
        certificate: Box<Place>,
        /// The field of the key.
        key: Box<Place>,
        /// The mismatch between certificate and key.
        error: CredentialError,
    },
}

/// Cuts a name or path at its first space or control character, for messages. In a file with an unclosed quote, a name
/// may reach over half the file, keys and tokens included.
pub(crate) fn shown(name: &str) -> String {
    match name.find(|c: char| c.is_whitespace() || c.is_control()) {
        Some(end) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Lists names for messages, each shortened by [`shown`].
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = names.into_iter().map(|name| format!("\"{}\"", shown(name))).collect();
    if quoted.is_empty() { "none".into() } else { quoted.join(", ") }
}
