//! The members of a certificate list, as the file describes them: complete, checked, defaults applied.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::TrustBundle;
use perennial::{Policy, Template};
use perennial_kubernetes::PodIdentity;
use perennial_pki::{KeyAlgorithm, Usage};
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{FileLayout, FileOptions, Projection};

/// A certificate list that was read from a file. Every value is checked: the file had no error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List {
    /// The file that the list was read from.
    pub(crate) path: PathBuf,
    /// The certificates, in the order of the file. Names are unique, every name that a member refers to exists, and no
    /// two members write the same file.
    pub(crate) members: Vec<Member>,
    /// The trust bundles, in the order of the file. No two have the same path, and no certificate writes it.
    pub(crate) trust_bundles: Vec<ListedBundle>,
}

/// A trust bundle of a list: ClusterTrustBundles, and the file that gets their CA certificates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListedBundle {
    pub(crate) bundle: TrustBundle,
    /// The identity that requests authenticate with. Never [`Asker::Own`].
    pub(crate) asker: Asker,
    /// The kubeconfig that names the API server and its CA. Its user is not used.
    pub(crate) cluster_kubeconfig: PathBuf,
    /// The volume that the path is in, and the owner of the volume's files; `None` if the path is in no volume.
    pub(crate) volume: Option<(PathBuf, Option<u32>)>,
}

/// One certificate of a list. Two members are equal if nothing has to change in a running rotation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// The name of the member, a DNS label. Logs, metrics and commands name the certificate by it.
    pub(crate) name: String,
    /// The signer, `spec.signerName` of the request.
    pub(crate) signer: String,
    /// The pod that the certificate is for; `None` for a certificate that is requested with a CSR.
    pub(crate) pod: Option<Pod>,
    /// The names to request; empty if the signer chooses the names, as for a pod.
    pub(crate) template: Template,
    /// The usages to request, `spec.usages`; `None`: as the signer requires.
    pub(crate) usages: Option<Vec<String>>,
    /// The usages that an issued certificate must have.
    pub(crate) required_usages: Vec<Usage>,
    /// The kind of the generated keys.
    pub(crate) key_type: KeyAlgorithm,
    /// The lifetime to request; `None`: that of the signer or, for a pod, [`Pod::LIFETIME`].
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

/// The pod of a member's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// The pod with its service account and its node.
    pub(crate) identity: PodIdentity,
    /// Information of the pod's author for the signer, `spec.unverifiedUserAnnotations`.
    pub(crate) user_annotations: BTreeMap<String, String>,
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

/// The files of a member's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// kubelet's layout: dated files and the link `PREFIX-current.pem`.
    Directory { path: PathBuf, prefix: String },
    /// Files that are laid out for other programs.
    Files(FileLayout, FileOptions),
    /// Files in a volume, as those of a pod.
    Volume(VolumeFiles),
}

/// The files of a member in a volume, which other members may write to as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFiles {
    /// The directory of the volume.
    pub(crate) path: PathBuf,
    /// The files of the certificate, relative to the volume.
    pub(crate) projection: Projection,
    /// Owner, group and mode of the files.
    pub(crate) access: FileAccess,
    /// The directory with the private copy and the pending record, for this member alone.
    pub(crate) private: PathBuf,
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

impl Pod {
    /// The `maxExpirationSeconds` that API servers set if a request has none.
    pub(crate) const LIFETIME: Duration = Duration::from_secs(86_400);
}

impl Member {
    /// The longest lifetime that a certificate may have; `None`: the signer decides.
    pub(crate) fn longest_lifetime(&self) -> Option<Duration> {
        self.lifetime.or_else(|| self.pod.as_ref().map(|_| Pod::LIFETIME))
    }

    /// The files that other programs read, the certificate's first.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let (layout, options) = match &self.location {
            Location::Directory { path, prefix } => return vec![path.join(format!("{prefix}-current.pem"))],
            Location::Files(layout, options) => (layout, options),
            Location::Volume(volume) => return volume.files(),
        };
        let mut files = match layout {
            FileLayout::Linked { directory, certificate, key } => {
                vec![directory.join(certificate), directory.join(key)]
            }
            FileLayout::Plain { certificate, key } => vec![certificate.clone(), key.clone()],
            FileLayout::Bundle { file } => vec![file.clone()],
        };
        files.extend(options.ca.iter().map(|ca| ca.to.clone()));
        files
    }
}

impl VolumeFiles {
    /// The files of the certificate, the one with the certificate first.
    fn files(&self) -> Vec<PathBuf> {
        match &self.projection {
            Projection::Bundle { path } => vec![self.path.join(path)],
            Projection::Files { key, certificate_chain } => {
                vec![self.path.join(certificate_chain), self.path.join(key)]
            }
        }
    }
}
