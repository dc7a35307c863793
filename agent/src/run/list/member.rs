//! A running member of the list: its rotation, its files and its hook.

use std::sync::Arc;
use std::time::Duration;

use perennial_pki::Credential;
use perennial_rotation::{Directory, LoadRequest, Rotator, Store as _, clock};

use super::handles::Handles;
use super::resolved::{Resolved, Servers, Sources};
use crate::certificates::{Member, MemberStore, Volumes};
use crate::cli::Proxy;
use crate::descriptors::with_limit;
use crate::fleet::Rotations;
use crate::kubeconfigs::Server;
use crate::metrics::{MemberFacts, Source};
use crate::observers::Watchers;
use crate::report::Report;
use crate::run::acceptance::{Acceptance, Checks};
use crate::run::cert_reporter::{CertReporter, report_replacement};
use crate::run::hook::{self, Hooks};
use crate::run::wake;

/// The values that all members share, on all threads.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) handles: Handles,
    pub(super) servers: Servers,
    pub(super) sources: Sources,
    pub(super) volumes: Volumes,
    pub(super) hooks: Hooks,
    pub(super) checks: Checks,
    pub(super) watchers: Watchers,
    pub(super) rotations: Arc<Rotations>,
    pub(super) proxy: Proxy,
    /// The interval of checks whether API servers accept a certificate; zero: never.
    pub(super) check_interval: Duration,
    /// Wakes the main loop.
    pub(super) wake: Arc<dyn Fn() + Send + Sync>,
}

/// The configuration of a running member that was read again, with its API server; `None` if it has not changed. The
/// error is a clause.
pub(super) type Reread = Result<Option<(Resolved, Server)>, String>;

/// A running member.
pub(super) struct Active {
    pub(super) reporter: CertReporter,
    config: Resolved,
    files: MemberStore,
    /// True if the certificate was durable, but not in the files that other programs read, at the last poll.
    is_unpublished: bool,
    /// The checks whether the API server accepts the certificate; `None` if they are off.
    acceptance: Option<Acceptance>,
}

impl Active {
    /// Reads the files of the member, locks them, and starts the rotation.
    ///
    /// # Errors
    /// The reason why the member cannot start, as a clause.
    pub(super) fn start(member: Member, shared: &Shared) -> Result<Self, String> {
        let config = Resolved::read(member)?;
        let server = shared.servers.of(&config, shared.proxy)?;
        let files = config.member.open_store(&shared.volumes).map_err(|error| error.to_string())?;
        files.claim().map_err(|error| with_limit(&*error))?;
        let found = stored(&files, config.common_name());
        let held = found.as_ref().map(|found| found.chain().certificate().clone());
        begin_hook(&config, &files, found, &shared.hooks);
        let has_certificate = held.as_ref().is_some_and(|held| !held.validity.expired(clock::now().unix));
        let name = config.member.name.as_str();
        let rotator = Rotator::new()
            .policy(config.member.policy.clone())
            .template(config.member.template.clone())
            .signer(config.signer(&server, &shared.handles, &shared.sources, has_certificate))
            .store(files.store());
        let wake = shared.wake.clone();
        let observers = shared.watchers.of(name).into_iter().chain([wake::observer(move || wake())]).collect();
        let rotation = shared.rotations.add(name, rotator, observers).map_err(|error| with_limit(&error))?;
        // A program that reads these files finds no new certificate yet.
        let is_unpublished = files.is_unpublished();
        if !is_unpublished {
            shared.hooks.run_owed(name);
        }
        shared.handles.set(name, rotation.handle().clone());
        let reporter = CertReporter::new(name, rotation, files.certificate()).began_with(held);
        let acceptance = accept(&config, &server, &reporter, shared);
        Ok(Self { reporter, config, files, is_unpublished, acceptance })
    }

    /// Reports everything new since the last poll. Begins an owed run of the hook once the certificate is in its files.
    pub(super) fn poll(&mut self, report: &Report, hooks: &Hooks) {
        self.reporter.poll(report, hooks);
        let was_unpublished = std::mem::replace(&mut self.is_unpublished, self.files.is_unpublished());
        if was_unpublished && !self.is_unpublished {
            hooks.run_owed(&self.reporter.of);
        }
    }

    /// Returns a call that reads the files that `member` names, which is this member after a reload, and changes the
    /// member's hook. The call is for another thread, since a disk may not answer. The location of the files must be
    /// unchanged.
    pub(super) fn rereading(&self, member: Member, shared: &Shared) -> impl FnOnce() -> Reread + Send + use<> {
        let (before, files, shared) = (self.config.clone(), self.files.clone(), shared.clone());
        move || {
            let next = Resolved::read(member)?;
            let server = shared.servers.of(&next, shared.proxy)?;
            if next == before {
                return Ok(None);
            }
            if next.member.reaction != before.member.reaction {
                begin_hook(&next, &files, stored(&files, next.common_name()), &shared.hooks);
                if !files.is_unpublished() {
                    shared.hooks.run_owed(&next.member.name);
                }
            }
            Ok(Some((next, server)))
        }
    }

    /// True if the running rotation can follow `next`, which is this member after a reload. Otherwise the rotation must end,
    /// and another one start: with other files, and with another signer.
    pub(super) fn can_become(&self, next: &Member) -> bool {
        let now = &self.config.member;
        // Rotation points are drawn from the signer's name, when a rotation starts. A rotation whose certificate is in
        // memory only does not end: the certificate would be lost.
        let keeps_signer = now.signer == next.signer || self.reporter.rotation.handle().snapshot().unwritten;
        // A signer of pods chooses the names, and another signer gets a template.
        now.is_stored_like(next) && keeps_signer && now.pod.is_some() == next.pod.is_some()
    }

    /// Applies a changed configuration to the running rotation. The location of the files must be unchanged.
    pub(super) fn apply(&mut self, (next, server): (Resolved, Server), shared: &Shared) {
        let (before, handle) = (&self.config, self.reporter.rotation.handle());
        if next.member.template != before.member.template
            && let Err(error) = handle.set_template(Some(next.member.template.clone()))
        {
            let name = &next.member.name;
            tracing::error!("{name}: {error}; continuing with the names requested until now");
        }
        if !next.requests_like(before) {
            handle.set_signer(Some(next.signer(
                &server,
                &shared.handles,
                &shared.sources,
                handle.credential().is_some(),
            )));
            self.acceptance = accept(&next, &server, &self.reporter, shared);
        }
        if next.member.policy != before.member.policy {
            handle.set_policy(next.member.policy.clone());
        }
        self.config = next;
    }

    /// Returns a call that reads the files, for another thread: the disk may not answer. If another program has put a
    /// pair there, the call reports the pair to the rotation.
    pub(super) fn search_for_replacement(&self) -> impl FnOnce() + Send + use<> {
        let (name, handle) = (self.reporter.of.clone(), self.reporter.rotation.handle().clone());
        let (store, common_name) = (self.files.store(), self.config.common_name().map(str::to_owned));
        move || report_replacement(&name, &handle, &*store, common_name.as_deref())
    }

    /// The files of the member.
    pub(super) const fn files(&self) -> &MemberStore {
        &self.files
    }

    /// The source of the certificate's state, for metrics.
    pub(super) fn source(&self) -> Source {
        let member = &self.config.member;
        let pod_signer = member.pod.is_some().then(|| member.signer.clone());
        self.reporter.source(Some(MemberFacts { store: self.files.clone(), pod_signer }))
    }

    /// True if the certificate was durable, but not in the files that other programs read, at the last poll.
    pub(super) const fn is_unpublished(&self) -> bool {
        self.is_unpublished
    }

    /// The configuration that the rotation follows.
    pub(super) const fn config(&self) -> &Resolved {
        &self.config
    }
}

/// Continues the hook debt of a member, or begins one. `found` is the credential in the store, which may have expired.
fn begin_hook(config: &Resolved, files: &MemberStore, found: Option<Arc<Credential>>, hooks: &Hooks) {
    // An expired certificate owes no run; its replacement will.
    let in_use = found.filter(|found| !found.chain().certificate().validity.expired(clock::now().unix));
    let subject = in_use.map(|credential| hook::subject(files.certificate(), credential.chain()));
    hooks.begin(&config.member.name, config.hook(), config.member.hook_record(files), subject);
}

/// Reads the credential with this common name, or with any if the signer chooses the names; `None` if there is none.
/// Changes no file.
fn stored(files: &MemberStore, common_name: Option<&str>) -> Option<Arc<Credential>> {
    let now = clock::now().unix;
    let request = LoadRequest { common_name, has_signer: false, now, keys: None, request_digest: None };
    let found = match files {
        // The rotation logs the problems of the directory when it loads the pair.
        MemberStore::Directory(directory) => {
            Directory::load(directory, common_name, now).ok()?.credential.map(|(credential, _)| credential)
        }
        MemberStore::Files(_) | MemberStore::Volume(..) => files.store().load(&request).ok()?.credential,
    };
    found.filter(|found| common_name.is_none_or(|name| found.chain().certificate().common_name() == name))
}

/// Starts the checks whether the API server accepts the certificate of a member that requests with this certificate.
fn accept(config: &Resolved, server: &Server, reporter: &CertReporter, shared: &Shared) -> Option<Acceptance> {
    if !config.is_identity() || shared.check_interval.is_zero() {
        return None;
    }
    let (cluster, handle) = (server.cluster.clone(), reporter.rotation.handle().clone());
    let name = config.common_name().unwrap_or(&config.member.name);
    let started = shared.checks.add(name, shared.check_interval, cluster, handle);
    let name = &config.member.name;
    started
        .inspect_err(|why| tracing::warn!("{name}: cannot check whether the API server accepts the certificate: {why}"))
        .ok()
}
