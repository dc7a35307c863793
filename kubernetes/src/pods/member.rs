//! [`Member`]: one certificate of a pod, as a member of a fleet.

use std::path::PathBuf;
use std::sync::Arc;

use perennial::{Policy, Template, UnixTime};
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{Directory, FileStoreError, Fleet, Handle, ProjectedVolume, Rotator, Signer, VolumeStore};

use super::pod::{Pod, PodVolume};
use super::status::{PodCertificateState, PodCertificateStatus};
use super::{PodCertificateSource, PodError};

/// The prefix of files with private state.
pub(super) const PREFIX: &str = "pod";

/// One certificate of a pod: a member of the fleet, and its store.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) handle: Handle,
    store: Arc<VolumeStore>,
    /// The pod and the source that the certificate is of.
    pod: Arc<Pod>,
    source: PodCertificateSource,
    /// The path of the volume, and the access of the files in it.
    path: PathBuf,
    access: FileAccess,
}

impl Member {
    /// Adds a certificate to the fleet, with its private state in `directory`.
    pub(super) fn add(
        fleet: &Fleet,
        directory: PathBuf,
        shared: Arc<ProjectedVolume>,
        (pod, volume, index, source): (&Arc<Pod>, &PodVolume, usize, &PodCertificateSource),
        signer: Arc<dyn Signer>,
        policy: Option<Policy>,
    ) -> Result<Self, PodError> {
        let private =
            Directory::private(directory, PREFIX).map_err(|source| PodError::State { pod: pod.name(), source })?;
        let store = VolumeStore::new(private, shared, source.projection.clone(), volume.access());
        let failed = |error| PodError::of_store(pod.name(), error);
        let store = Arc::new(store.map_err(failed)?);
        store.claim().map_err(failed)?;
        let rotator = Rotator::new()
            .name(format!("{}/{}/{index}", pod.name(), volume.name))
            .template(Template::default())
            .signer(signer)
            .store(store.clone());
        let rotator = policy.into_iter().fold(rotator, Rotator::policy);
        let handle = fleet.add(rotator).map_err(|source| {
            store.close();
            PodError::Start { pod: pod.name(), source }
        })?;
        let (path, access) = (volume.path.clone(), volume.access());
        Ok(Self { handle, store, pod: pod.clone(), source: source.clone(), path, access })
    }

    /// True if the member can serve this source in this volume: the files and their access have not changed.
    pub(super) fn fits(&self, volume: &PodVolume, source: &PodCertificateSource) -> bool {
        !self.handle.has_ended()
            && self.source.projection == source.projection
            && self.path == volume.path
            && self.access == volume.access()
    }

    /// Gives the member the signer of the pod and the source as they are now. If they have changed, the signer has another
    /// digest, and the rotation requests a new certificate at once.
    pub(super) fn change(&mut self, pod: &Arc<Pod>, source: &PodCertificateSource, signer: Arc<dyn Signer>) {
        if self.pod.identity != pod.identity || self.source != *source {
            self.handle.set_signer(Some(signer));
        }
        (self.pod, self.source) = (pod.clone(), source.clone());
    }

    /// Writes the files of the volume again if they are not those of the current certificate.
    pub(super) fn restore(&self, now: UnixTime) -> Result<(), PodError> {
        self.store.restore(now).map(drop).map_err(|error| PodError::of_store(self.pod.name(), error))
    }

    /// Ends the member. Afterwards, nothing writes to its private state or its volume any more.
    pub(super) fn close(&self) {
        // The member ends without a wait for it. The store takes no last write: its certificate is not wanted any more.
        drop(self.handle.shutdown());
        self.store.close();
    }

    pub(super) fn status(&self, (volume, index): &(String, usize), now: UnixTime) -> PodCertificateStatus {
        let snapshot = self.handle.snapshot();
        let validity = snapshot.credential.as_ref().map(|held| held.chain().certificate().validity);
        PodCertificateStatus {
            pod_uid: self.pod.identity.uid.clone(),
            pod: self.pod.name(),
            volume: volume.clone(),
            source: *index,
            signer_name: self.source.signer_name.clone(),
            state: PodCertificateState::of(&snapshot, now),
            not_after: validity.map(|validity| validity.not_after()),
            rotation_point: snapshot.rotation_point,
            last_error: snapshot.last_error.clone(),
            unpublished: self.store.unpublished(),
            activity: snapshot.state,
        }
    }
}

impl PodError {
    /// The error of a store: of its private state, or of the volume.
    fn of_store(pod: String, error: FileStoreError) -> Self {
        match error {
            FileStoreError::Private(source) => Self::State { pod, source },
            source => Self::Volume { pod, source },
        }
    }
}
