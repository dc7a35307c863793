//! [`PodCertificates`]: the certificates of all pods of a node, for node agents.

mod entry;
mod error;
mod known;
mod member;
mod pod;
mod shared;
mod source_signer;
mod state_directory;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};

use perennial::{Policy, UnixTime};
use perennial_pki::Roots;
use perennial_rotation::{Fleet, Handle, IdentitySource, Profile, ProjectedFile, ProjectedVolume, Signer, Zeroizing};

use crate::cluster::Cluster;
use crate::{BundleSelection, PodCertificateSigner, PodIdentity};

use entry::Entry;
pub use error::PodError;
use known::Known;
use member::Member;
pub use pod::{Pod, PodCertificateSource, PodSource, PodVolume};
use shared::{Shared, Turn};
use source_signer::SourceSigner;
use state_directory::StateDirectory;
pub use status::{PodCertificateState, PodCertificateStatus};

/// The certificates in the projected volumes of all pods of a node: what kubelet's manager of pod certificates does, for
/// agents that are not kubelet.
///
/// Each certificate is a member of a [`Fleet`], which a runtime drives. The limits of the fleet hold for the requests of all
/// pods together, also after a restart of the agent or a long suspend of the node. The program reports pods by
/// [`put`](Self::put) and [`remove`](Self::remove), and CAs by [`set_trust_bundle`](Self::set_trust_bundle). These methods
/// read and write files, and block meanwhile.
///
/// Two calls for one pod follow each other. Calls for different pods run beside each other on different threads, so that a
/// volume that does not answer holds up no call for another pod. Calls for all pods come to the pods last that another call is
/// changing, and wait for that call.
///
/// # State
///
/// Below the state directory, each certificate has a credential directory `UID/VOLUME/SOURCE` with the current pair and the
/// pending record. After a restart, the agent serves valid certificates without a request, and resumes requests in flight.
/// If a volume is empty, as a tmpfs is after a reboot, [`put`](Self::put) writes its files again from these directories.
/// After a restart, call [`put`](Self::put) for each pod of the node, and then [`retain`](Self::retain), which removes the
/// keys of all other pods.
///
/// # Changed sources
///
/// If the identity of a pod, or signer, key type, lifetime or annotations of a source change, a new certificate is requested at
/// once, also if the change was made between two runs. Until then, the files of the volume stay. The pending record shows
/// what the last request was of; without a record that can be read, the certificate counts as one of the present source.
///
/// # Refused certificates
///
/// A certificate that was denied is requested again after the policy's backoff for refusals, and at once if the source
/// changes. kubelet gives it up for the life of the pod.
///
/// # Example
///
/// A pod with one volume, in which one file has the key and the chain:
///
/// ```no_run
/// use std::collections::BTreeMap;
/// use perennial_kubernetes::pods::{Pod, PodCertificateSource, PodCertificates, PodSource, PodVolume};
/// use perennial_rotation::{KeyAlgorithm, Projection, clock};
/// # use perennial_kubernetes::{PodIdentity, cluster::Cluster};
/// # use perennial_rotation::{Fleet, IdentitySource};
/// # use std::sync::Arc;
/// # fn example(fleet: Fleet, cluster: Arc<Cluster>, node: Arc<dyn IdentitySource>, identity: PodIdentity)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// // `fleet` is that of a runtime, such as `perennial_std::fleet(limits)`. `node` is the identity of the node, such as the
/// // handle of its client certificate. `identity` has the names and UIDs of the pod, its service account and its node.
/// let pods = PodCertificates::new(fleet, "/var/lib/agent/pods", cluster, node);
/// let bundle = Projection::Bundle { path: "credential.pem".into() };
/// let certificate = PodCertificateSource {
///     key_type: KeyAlgorithm::Ed25519,
///     ..PodCertificateSource::new("example.com/mesh", bundle)
/// };
/// let volume = PodVolume {
///     mode: 0o600,
///     sources: BTreeMap::from([(0, PodSource::Certificate(certificate))]),
///     ..PodVolume::new("mesh", "/var/lib/agent/volumes/web-0/mesh")
/// };
/// pods.put(Pod { identity, volumes: vec![volume] }, clock::now().unix)?;
/// for status in pods.statuses(clock::now().unix) {
///     println!("{} {}: {}", status.pod, status.volume, status.state.name());
/// }
/// # Ok(()) }
/// ```
#[derive(derive_more::Debug)]
pub struct PodCertificates {
    fleet: Fleet,
    state: StateDirectory,
    policy: Option<Policy>,
    #[debug(skip)]
    signers: Box<MakeSigner>,
    shared: Shared,
}

type MakeSigner = dyn Fn(&PodIdentity, &PodCertificateSource) -> Result<Arc<dyn Signer>, String> + Send + Sync;

impl PodCertificates {
    /// Makes a manager that requests certificates from `cluster` with PodCertificateRequests ([`PodCertificateSigner`]).
    /// Requests authenticate as `node`. The private state is in the directory `state`, which the first
    /// [`put`](Self::put) creates.
    pub fn new(fleet: Fleet, state: impl Into<PathBuf>, cluster: Arc<Cluster>, node: Arc<dyn IdentitySource>) -> Self {
        Self::with_signers(fleet, state, move |pod, source| {
            let mut signer =
                PodCertificateSigner::new(cluster.clone(), node.clone(), source.signer_name.clone(), pod.clone());
            signer.unverified_user_annotations = source.user_annotations.clone();
            signer.profile =
                Profile { key_algorithm: source.key_type, lifetime: source.max_expiration, ..signer.profile };
            signer.check()?;
            Ok(Arc::new(signer))
        })
    }

    /// Makes a manager whose signers `make` returns: for certificates that do not come from the Kubernetes API. `make` is
    /// called by [`put`](Self::put); its error, as a clause, refuses the pod. The signers must
    /// [choose names](Signer::chooses_names), and have the key type and the lifetime of the source. In the place of their own
    /// [digest](Signer::request_digest) is that of the pod and the source.
    pub fn with_signers<F>(fleet: Fleet, state: impl Into<PathBuf>, make: F) -> Self
    where
        F: Fn(&PodIdentity, &PodCertificateSource) -> Result<Arc<dyn Signer>, String> + Send + Sync + 'static,
    {
        let (state, shared) = (StateDirectory::new(state.into()), Shared::default());
        Self { fleet, state, policy: None, signers: Box::new(make), shared }
    }

    /// Sets the policy of certificates that are added from now on. A hint of the signer (`beginRefreshAt`) sets the rotation
    /// point in place of the policy.
    #[must_use]
    pub fn policy(self, policy: Policy) -> Self {
        Self { policy: Some(policy), ..self }
    }

    /// Adds a pod, or changes it: adds members for new sources, requests new certificates for changed ones, removes the
    /// members, keys and files of vanished ones, and completes the volumes. Does nothing if the pod has not changed and its
    /// volumes are complete: call this for each event of a pod.
    ///
    /// Reads the stores of new members, and blocks meanwhile.
    ///
    /// # Errors
    /// [`PodError::Invalid`] if the pod cannot have such certificates: nothing is changed. Else the first error; the other
    /// sources of the pod are served, and another call tries the failed ones again.
    pub fn put(&self, pod: Pod, now: UnixTime) -> Result<(), PodError> {
        pod.check()?;
        let make = |(volume, index, source): (&PodVolume, usize, &PodCertificateSource)| {
            let signer = (self.signers)(&pod.identity, source);
            let invalid = |why| pod.invalid(format!("volume {}, source {index}: {why}", volume.name));
            let signer = SourceSigner::new(signer.map_err(invalid)?, &pod.identity, source);
            Ok(((volume.name.clone(), index), Arc::new(signer) as Arc<dyn Signer>))
        };
        let signers = pod.certificates().map(make).collect::<Result<BTreeMap<_, _>, PodError>>()?;
        let uid = pod.identity.uid.clone();
        let _turn = self.shared.turn(&uid, Some(&pod));
        let mut entry = self.known().entry(&pod)?;
        let changed = self.change(&mut entry, &Arc::new(pod), signers, now);
        self.known().pods.insert(uid.clone(), entry);
        changed
    }

    /// Ends the members of a pod, and removes their private state and keys, durably, and their files from the volumes that
    /// still exist. Requests in flight are dropped; their objects stay at the API server, which removes them. Does not wait
    /// for the fleet's loop. Also removes what an earlier run has left of the pod.
    ///
    /// # Errors
    /// [`PodError::Invalid`] if `uid` is no UID: nothing is changed. Else the first removal that failed; the others were
    /// carried out, and the pod's certificates are not rotated any more. Another call tries the failed removals again.
    pub fn remove(&self, uid: &str, now: UnixTime) -> Result<(), PodError> {
        pod::check_uid(uid)?;
        self.end(&self.shared.turn(uid, None), now)
    }

    /// Removes all pods except these, also those of an earlier run: see [`remove`](Self::remove). Files of other programs
    /// in the state directory stay.
    ///
    /// # Errors
    /// The state directory cannot be read, or the first removal that failed; the others were carried out.
    pub fn retain(&self, uids: impl IntoIterator<Item: AsRef<str>>, now: UnixTime) -> Result<(), PodError> {
        let kept: BTreeSet<String> = uids.into_iter().map(|uid| uid.as_ref().to_owned()).collect();
        let mut gone = self.known().uids();
        let listed = self.state.uids().map(|uids| gone.extend(uids));
        gone.retain(|uid| !kept.contains(uid));
        let turns = std::iter::from_fn(|| self.shared.next_turn(&mut gone));
        let ended = turns.map(|turn| self.end(&turn, now));
        first_error([listed].into_iter().chain(ended))
    }

    /// Sets the CAs of a selection, and writes them to the volumes of all pods with this selection. Pods that are put later
    /// get them, too. For a program with [`TrustBundles`](crate::TrustBundles): call this whenever
    /// [`BundleState::changed`](crate::BundleState::changed) has changed.
    ///
    /// The CAs of a selection that no pod has are kept, too: the program may report them long before the first such pod, and
    /// not again before they change.
    ///
    /// # Errors
    /// The first volume that cannot be written; the others were. [`restore`](Self::restore) tries again.
    pub fn set_trust_bundle(&self, selection: &BundleSelection, roots: &Roots, now: UnixTime) -> Result<(), PodError> {
        self.known().trust_bundles.insert(selection.clone(), roots.pem().into());
        self.for_each(|entry| self.write_trust_bundles(entry, now))
    }

    /// Completes the volumes of all pods: writes files again that another program has removed or changed, or that could not
    /// be written before. Reads all volumes and all private state: call this every few minutes.
    ///
    /// # Errors
    /// The first error; the other volumes were completed.
    pub fn restore(&self, now: UnixTime) -> Result<(), PodError> {
        self.for_each(|entry| {
            let certificates = entry.members.values().map(|member| member.restore(now));
            first_error(certificates.chain([self.write_trust_bundles(entry, now)]))
        })
    }

    /// The state of each certificate, sorted by the UID of the pod, the volume and the source. Never waits for a disk.
    pub fn statuses(&self, now: UnixTime) -> Vec<PodCertificateStatus> {
        let known = self.known();
        let members = known.pods.values().flat_map(|entry| &entry.members);
        members.map(|(key, member)| member.status(key, now)).collect()
    }

    /// The handle of a certificate: its credential, waits and news; `None` if there is no such source. Do not set its signer
    /// or shut it down: [`put`](Self::put) and [`remove`](Self::remove) do.
    pub fn handle(&self, uid: &str, volume: &str, source: usize) -> Option<Handle> {
        let known = self.known();
        Some(known.pods.get(uid)?.members.get(&(volume.to_owned(), source))?.handle.clone())
    }

    /// The volume of a pod, for the files of other sources; `None` if there is none.
    pub fn volume(&self, uid: &str, volume: &str) -> Option<Arc<ProjectedVolume>> {
        self.known().pods.get(uid)?.volumes.get(volume).cloned()
    }

    /// The selections of a pod whose CAs are not known yet: their files are missing in its volumes.
    pub fn missing_trust_bundles(&self, uid: &str) -> Vec<BundleSelection> {
        let known = self.known();
        let entry = known.pods.get(uid);
        let selections = entry.iter().flat_map(|entry| entry.pod.trust_bundles().map(|(_, selection, _)| selection));
        selections.filter(|selection| !known.trust_bundles.contains_key(selection)).cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known()
    }

    /// Calls `act` for each pod, in the turn of the pod.
    fn for_each(&self, act: impl Fn(&Entry) -> Result<(), PodError>) -> Result<(), PodError> {
        let mut left = self.known().uids();
        let turns = std::iter::from_fn(|| self.shared.next_turn(&mut left));
        first_error(turns.map(|turn| {
            let entry = self.known().pods.get(&turn.uid).cloned();
            entry.map_or(Ok(()), |entry| act(&entry))
        }))
    }

    /// Changes the members of a pod to those of `pod`.
    fn change(
        &self,
        entry: &mut Entry,
        pod: &Arc<Pod>,
        mut signers: BTreeMap<(String, usize), Arc<dyn Signer>>,
        now: UnixTime,
    ) -> Result<(), PodError> {
        let uid = &pod.identity.uid;
        let sources: BTreeMap<_, _> =
            pod.certificates().map(|(volume, index, source)| ((&*volume.name, index), (volume, source))).collect();
        let fits = |(volume, index): &(String, usize), member: &Member| {
            sources.get(&(&**volume, *index)).is_some_and(|(volume, source)| member.fits(volume, source))
        };
        let (kept, ended): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut entry.members).into_iter().partition(|(key, member)| fits(key, member));
        entry.members = kept;
        // Before their files are removed: a write that waits for the volume would bring these back.
        ended.values().for_each(Member::close);
        // The state of another pod or source is of use, too: the rotation replaces its certificate.
        let stays = |volume: &str, index: usize| sources.contains_key(&(volume, index));
        let mut results = vec![self.state.retain(uid, stays), entry.change_volumes(pod, now)];
        for (volume, index, source) in pod.certificates() {
            let key = (volume.name.clone(), index);
            let Some(signer) = signers.remove(&key) else { continue };
            if let Some(member) = entry.members.get_mut(&key) {
                member.change(pod, source, signer);
                results.push(member.restore(now));
                continue;
            }
            let Some(shared) = entry.volumes.get(&volume.name).cloned() else { continue };
            let directory = self.state.of(uid, &volume.name, index);
            let of = (pod, volume, index, source);
            let added = Member::add(&self.fleet, directory, shared, of, signer, self.policy.clone());
            results.push(added.map(|member| drop(entry.members.insert(key, member))));
        }
        results.push(self.write_trust_bundles(entry, now));
        first_error(results)
    }

    /// Writes the CAs that are known to the volumes of a pod.
    fn write_trust_bundles(&self, entry: &Entry, now: UnixTime) -> Result<(), PodError> {
        let known = self.known();
        let files = entry.pod.trust_bundles().filter_map(|(volume, selection, path)| {
            let pem = known.trust_bundles.get(selection)?;
            let contents = Zeroizing::new(pem.as_bytes().to_vec());
            let file = ProjectedFile { path: path.into(), contents, access: volume.access() };
            Some((entry.volumes.get(&volume.name)?, file))
        });
        let files: Vec<_> = files.collect();
        drop(known);
        let failed = |source| PodError::Volume { pod: entry.pod.name(), source };
        first_error(files.into_iter().map(|(volume, file)| volume.set(&[file], now).map(drop).map_err(failed)))
    }

    /// Ends the members of a pod, and removes its private state and its files.
    fn end(&self, Turn { uid, .. }: &Turn<'_>, now: UnixTime) -> Result<(), PodError> {
        let mut entry = self.known().pods.remove(uid).unwrap_or_default();
        std::mem::take(&mut entry.members).values().for_each(Member::close);
        let removed = self.state.retain(uid, |_, _| false);
        let none = Pod { identity: entry.pod.identity.clone(), volumes: Vec::new() };
        let emptied = entry.change_volumes(&Arc::new(none), now);
        if !entry.stale.is_empty() {
            // The next removal tries again.
            self.known().pods.insert(uid.to_owned(), entry);
        }
        first_error([removed, emptied])
    }
}

/// The first error; all results are awaited.
fn first_error(results: impl IntoIterator<Item = Result<(), PodError>>) -> Result<(), PodError> {
    results.into_iter().fold(Ok(()), Result::and)
}
