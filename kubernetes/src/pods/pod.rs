//! [`Pod`]: the volumes of a pod, as far as they contain certificates and CAs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use perennial::printable;
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{KeyAlgorithm, ProjectedVolume, Projection};

use super::PodError;
use crate::{BundleSelection, PodIdentity};

/// The longest UID of a pod, in bytes. UIDs of Kubernetes have 36; those of static pods have 32.
const MAX_UID: usize = 128;
/// The longest name of a volume (a DNS label).
const MAX_VOLUME_NAME: usize = 63;

/// A pod whose volumes have certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The pod, its service account and its node. The UID is the pod's key: a pod of the same name and another UID is
    /// another pod.
    pub identity: PodIdentity,
    /// The volumes with certificates or CAs; others can be left out.
    pub volumes: Vec<PodVolume>,
}

/// A projected volume of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodVolume {
    /// The name in the pod, `spec.volumes[].name`.
    pub name: String,
    /// The directory on the node, absolute. No other volume has the same path.
    pub path: PathBuf,
    /// The permission bits of files, `defaultMode`, such as `0o644`. Others than the owner must not be able to write.
    pub mode: u32,
    /// The numeric user ID of the owner of files; `None`: the user of this process.
    pub owner: Option<u32>,
    /// The numeric group ID of files, `fsGroup`; `None`: the group of this process.
    pub group: Option<u32>,
    /// The sources with certificates or CAs, each with its index in `spec.volumes[].projected.sources`.
    pub sources: BTreeMap<usize, PodSource>,
}

/// A source of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSource {
    /// A certificate of the pod: `podCertificate`.
    Certificate(PodCertificateSource),
    /// CAs that the cluster publishes: `clusterTrustBundle`.
    TrustBundle {
        /// The selected ClusterTrustBundles.
        selection: BundleSelection,
        /// The path of the file in the volume.
        path: String,
    },
}

/// A source with a certificate of the pod: `podCertificate` of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCertificateSource {
    /// The signer, such as `example.com/mesh`.
    pub signer_name: String,
    /// The kind of the key, `keyType`.
    pub key_type: KeyAlgorithm,
    /// The longest lifetime that the signer may choose, `maxExpirationSeconds`; `None`: 24 hours, as the API sets it.
    pub max_expiration: Option<Duration>,
    /// The files: `credentialBundlePath`, or `keyPath` and `certificateChainPath`.
    pub projection: Projection,
    /// Information for the signer, `userAnnotations`.
    pub user_annotations: BTreeMap<String, String>,
}

impl PodSource {
    /// The paths of the source's files in the volume.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Self::Certificate(source) => source.projection.paths().collect(),
            Self::TrustBundle { path, .. } => vec![path],
        }
    }
}

impl PodCertificateSource {
    /// A certificate of this signer in these files, with a P-256 key, a lifetime of at most 24 hours, and no annotations.
    pub fn new(signer_name: impl Into<String>, projection: Projection) -> Self {
        Self {
            signer_name: signer_name.into(),
            key_type: KeyAlgorithm::default(),
            max_expiration: None,
            projection,
            user_annotations: BTreeMap::new(),
        }
    }
}

impl PodVolume {
    /// A volume without sources, whose files belong to the user of this process and have mode 0644.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let sources = BTreeMap::new();
        Self { name: name.into(), path: path.into(), mode: 0o644, owner: None, group: None, sources }
    }

    /// Owner, group and mode of files in the volume.
    pub(super) const fn access(&self) -> FileAccess {
        FileAccess { owner: self.owner, group: self.group, mode: self.mode }
    }

    /// The paths of all files in the volume.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.sources.values().flat_map(PodSource::paths)
    }

    /// The reason why the volume cannot be written, as a clause; `None` if it can.
    fn fault(&self) -> Option<String> {
        if !is_volume_name(&self.name) {
            return Some("the name of a volume consists of at most 63 lower-case letters, digits and hyphens".into());
        }
        if self.path.to_string_lossy().chars().any(char::is_control) {
            return Some("its path contains a control character".into());
        }
        if [self.owner, self.group].contains(&Some(u32::MAX)) {
            return Some("4294967295 is the ID of no user and no group".into());
        }
        let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        if !self.path.is_absolute() || !self.path.components().all(is_plain) {
            return Some(format!(
                "its path {} is not absolute, or contains `..`",
                printable(&self.path.to_string_lossy())
            ));
        }
        if self.mode & !0o755 != 0 {
            return Some(format!(
                "mode {:04o} is not allowed: only the owner may write, and no other bits than 0755 may be set",
                self.mode
            ));
        }
        ProjectedVolume::check_paths(self.paths()).err().map(|error| error.to_string())
    }
}

impl Pod {
    /// Checks the pod without its signers: UID, name, names and paths of volumes, paths of files.
    ///
    /// # Errors
    /// [`PodError::Invalid`] with the first problem.
    pub fn check(&self) -> Result<(), PodError> {
        check_uid(&self.identity.uid)?;
        // Logs have the name as it is.
        if self.name().chars().any(char::is_control) {
            return Err(self.invalid("its name or namespace contains a control character".into()));
        }
        let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
        for volume in &self.volumes {
            let repeated = "another volume of the pod has the same name or path";
            let is_new = names.insert(&volume.name) && paths.insert(&volume.path);
            if let Some(why) = volume.fault().or_else(|| (!is_new).then(|| repeated.to_owned())) {
                return Err(self.invalid(format!("volume {}: {why}", printable(&volume.name))));
            }
        }
        Ok(())
    }

    /// The sources with certificates, each with its volume and its index.
    pub(super) fn certificates(&self) -> impl Iterator<Item = (&PodVolume, usize, &PodCertificateSource)> {
        self.volumes.iter().flat_map(|volume| {
            volume.sources.iter().filter_map(move |(index, source)| match source {
                PodSource::Certificate(source) => Some((volume, *index, source)),
                PodSource::TrustBundle { .. } => None,
            })
        })
    }

    /// The sources with CAs, each with its volume.
    pub(super) fn trust_bundles(&self) -> impl Iterator<Item = (&PodVolume, &BundleSelection, &str)> {
        self.volumes.iter().flat_map(|volume| {
            volume.sources.values().filter_map(move |source| match source {
                PodSource::TrustBundle { selection, path } => Some((volume, selection, &**path)),
                PodSource::Certificate(_) => None,
            })
        })
    }

    /// The paths of all files in the volume that is the directory `path`.
    pub(super) fn paths_in(&self, path: &Path) -> BTreeSet<&str> {
        self.volumes.iter().filter(|volume| volume.path == path).flat_map(PodVolume::paths).collect()
    }

    /// Namespace and name, for messages.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.identity.namespace, self.identity.name)
    }

    pub(super) fn invalid(&self, why: String) -> PodError {
        PodError::Invalid { pod: self.name(), why }
    }
}

/// Checks a UID, which is the name of a directory.
pub(super) fn check_uid(uid: &str) -> Result<(), PodError> {
    match is_uid(uid) {
        true => Ok(()),
        false => {
            let why = "a UID consists of at most 128 letters, digits and hyphens";
            Err(PodError::Invalid { pod: format!("with UID {}", printable(uid)), why: why.into() })
        }
    }
}

/// True if `uid` can be the UID of a pod, and so the name of a directory.
pub(super) fn is_uid(uid: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !uid.is_empty() && uid.len() <= MAX_UID && uid.bytes().all(is_good)
}

/// True if `name` can be the name of a volume, and so the name of a directory.
pub(super) fn is_volume_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= MAX_VOLUME_NAME && name.bytes().all(is_good) && !name.starts_with('-')
}
