//! The members of a certificate list, as the file describes them: complete, checked, defaults applied.

use std::path::PathBuf;
use std::time::Duration;

use perennial::{Policy, Template};
use perennial_pki::{KeyAlgorithm, Usage};

/// A certificate list that was read from a file. Every value is checked: the file had no error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List {
    /// The file that the list was read from.
    pub(crate) path: PathBuf,
    /// The certificates, in the order of the file. Names are unique, every name that a member refers to exists, and no
    /// two members write the same file.
    pub(crate) members: Vec<Member>,
}

/// One certificate of a list. Two members are equal if nothing has to change in a running rotation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// The name of the member, a DNS label. Logs, metrics and commands name the certificate by it.
    pub(crate) name: String,
    /// The signer, `spec.signerName` of a CSR.
    pub(crate) signer: String,
    /// The names to request.
    pub(crate) template: Template,
    /// The usages to request, `spec.usages`; `None`: as the signer requires.
    pub(crate) usages: Option<Vec<String>>,
    /// The usages that an issued certificate must have.
    pub(crate) required_usages: Vec<Usage>,
    /// The kind of the generated keys.
    pub(crate) key_type: KeyAlgorithm,
    /// The lifetime to request; `None`: the signer's.
    pub(crate) lifetime: Option<Duration>,
    /// The file with the CA certificates to which issued certificates must chain; `None`: any CA.
    pub(crate) issuer_ca_file: Option<PathBuf>,
    /// True to accept issued certificates with URIs and organizations that were not requested.
    pub(crate) accepts_extra_rights: bool,
    /// The timing of rotations and requests.
    pub(crate) policy: Policy,
    /// The identity that requests authenticate with.
    pub(crate) asker: Asker,
    /// The kubeconfig that names the API server and its CA. Its user is not used.
    pub(crate) cluster_kubeconfig: PathBuf,
    /// The files of the certificate.
    pub(crate) location: Location,
    /// Names of the members that must have a valid certificate before the first request of this member. Contains no
    /// cycle. The member that `asker` names comes first.
    pub(crate) after: Vec<String>,
    /// The command or signal that follows each new certificate.
    pub(crate) reaction: Reaction,
}

/// The identity that the requests of a member authenticate with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The member's own certificate. While there is no valid certificate, the user of this bootstrap kubeconfig.
    Own { bootstrap_kubeconfig: PathBuf },
    /// The certificate of another member, by its name.
    Member(String),
    /// The user of a kubeconfig.
    Kubeconfig(PathBuf),
    /// The bearer token in a file.
    TokenFile(PathBuf),
}

/// The files of a member's certificate, and the access to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) kind: StoreKind,
    pub(crate) access: Access,
    /// The encoding of the private key.
    pub(crate) encoding: Encoding,
    /// True if the operator allows perennial to replace files of another program whose certificate has another common
    /// name.
    pub(crate) replaces_foreign: bool,
}

/// The layout of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// kubelet's layout: dated files and the link `PREFIX-current.pem`.
    Directory { path: PathBuf, prefix: String },
    /// Files in one directory that switch together through the link `..data`.
    Linked { path: PathBuf, names: Names },
    /// Files at fixed paths, replaced one after the other.
    Plain { certificate: PathBuf, key: PathBuf, ca: Option<PathBuf> },
    /// One file with certificate and key.
    Bundle { file: PathBuf, ca: Option<PathBuf> },
}

/// The file names of a [`StoreKind::Linked`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// The name of the copy of [`Member::issuer_ca_file`]; `None`: no copy.
    pub(crate) ca: Option<String>,
}

/// Owner, group and modes of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// The numeric user ID of the owner; `None`: the user that runs perennial.
    pub(crate) owner: Option<u32>,
    /// The numeric group ID; `None`: the group that runs perennial.
    pub(crate) group: Option<u32>,
    /// The mode of files with the private key.
    pub(crate) mode: u32,
    /// The mode of files without a private key.
    pub(crate) certificate_mode: u32,
}

impl Default for Access {
    fn default() -> Self {
        Self { owner: None, group: None, mode: 0o600, certificate_mode: 0o644 }
    }
}

/// The encoding of a private key in PEM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// `PRIVATE KEY` (RFC 5958).
    #[default]
    Pkcs8,
    /// `RSA PRIVATE KEY` (RFC 8017). For RSA keys only.
    Pkcs1,
    /// `EC PRIVATE KEY` (RFC 5915). For ECDSA keys only.
    Sec1,
}

/// The command and the signal that follow each new certificate; both may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reaction {
    pub(crate) command: Option<CommandLine>,
    pub(crate) signal: Option<PidFile>,
}

/// A command, run without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// The program and its arguments; not empty.
    pub(crate) arguments: Vec<String>,
    /// The time limit of a run.
    pub(crate) timeout: Duration,
}

/// A signal to the process whose ID is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) path: PathBuf,
    pub(crate) signal: Signal,
}

/// A signal that makes programs read their certificates again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Hup,
    Usr1,
    Usr2,
}

impl Signal {
    /// The name of the signal, without `SIG`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
        }
    }
}

impl Member {
    /// The files that other programs read, the certificate's first.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let files = match &self.location.kind {
            StoreKind::Directory { path, prefix } => [Some(path.join(format!("{prefix}-current.pem"))), None, None],
            StoreKind::Linked { path, names } => [Some(&names.certificate), Some(&names.key), names.ca.as_ref()]
                .map(|name| name.map(|name| path.join(name))),
            StoreKind::Plain { certificate, key, ca } => [Some(certificate.clone()), Some(key.clone()), ca.clone()],
            StoreKind::Bundle { file, ca } => [Some(file.clone()), ca.clone(), None],
        };
        files.into_iter().flatten().collect()
    }
}
