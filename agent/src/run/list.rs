//! `perennial run --certificates`: keeps all certificates of a list in one process. A member that cannot start, or whose
//! requests fail, disturbs no other member.

mod bundles;
mod change;
mod handles;
mod member;
mod resolved;
mod restorer;
mod slot;
mod starter;
mod summary;
mod workers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use perennial::Instant;
use perennial_rotation::clock;
use serde_json::json;

use super::absence::Absence;
use super::cert_reporter::CertReporter;
use super::context::Context;
use super::running::Ended;
use crate::certificates::{List, Member, MemberStore, Volumes, of_process};
use crate::failure::Failure;
use crate::fleet::Rotations;
use crate::signals::END;
use crate::spans::words;
use bundles::ListedBundles;
use member::{Active, Shared};
pub(crate) use resolved::{Resolved, Servers, check_connection};
use restorer::Restorer;
use slot::{Phase, Slot};
use starter::{Outcome, Starter};
pub(super) use summary::Activity;
use summary::summary;
use workers::Workers;

/// Interval between checks that the files of the certificates still exist.
const STORE_POLL: Duration = Duration::from_secs(30);
/// Interval between attempts to start a member that could not start.
const START_RETRY: Duration = Duration::from_secs(30);
/// Interval between checks of members that are ending, of threads that hang while work waits, and of the limit of
/// `--exit-without-certificate`.
const SHORT_POLL: Duration = Duration::from_secs(5);
/// Most threads that read the files of running members, without those whose disk hangs.
const FILE_THREADS: usize = 2;
/// Longest time after the start for which systemd waits for certificates. After this time the service is ready even if
/// a member fails: systemd would otherwise restart the process, and with it all other members.
const READY_AFTER: Duration = Duration::from_secs(60);

/// The members of the list, and the list that they follow.
pub(super) struct Listed<'a> {
    pub(super) context: Context<'a>,
    /// The file of the list.
    path: PathBuf,
    shared: Shared,
    starter: Starter,
    /// The threads that read the files of running members.
    files: Workers,
    /// The threads that read the configurations of running members again.
    configurations: Workers,
    restorer: Restorer,
    members: BTreeMap<String, Slot>,
    /// Rotations of removed members, and of members whose files have moved, until each has ended.
    ending: Vec<Active>,
    started_at: Instant,
    /// Time of the next check that the files still exist.
    next_store_poll: Instant,
    /// The time without a valid certificate of any member.
    absence: Absence,
    /// The trust bundles of the list, and their files.
    bundles: ListedBundles,
    /// True once a member has started.
    has_started: bool,
}

/// Reads the list for `--certificates`.
///
/// # Errors
/// [`Failure::Usage`] with all errors of the file.
pub(super) fn read(path: &Path, node_name: Option<&str>) -> Result<List, Failure> {
    List::read(path, &of_process(node_name)?)
}

impl<'a> Listed<'a> {
    /// Begins to start all members. Reports `started` first.
    ///
    /// # Errors
    /// If the system refuses a thread or descriptor.
    pub(super) fn start(context: Context<'a>, list: List) -> Result<Self, Failure> {
        let options = context.options;
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(context.wakes.waker());
        let files = Workers::new("files", "reading the files of certificates", FILE_THREADS);
        let shared = Shared {
            handles: handles::Handles::default(),
            servers: Servers::default(),
            sources: resolved::Sources::default(),
            volumes: Volumes::default(),
            hooks: context.hooks.clone(),
            checks: context.checks.clone(),
            watchers: context.observers.watchers.clone(),
            rotations: Arc::new(Rotations::start(options.runtime)?),
            proxy: options.proxy,
            check_interval: if options.once { Duration::ZERO } else { options.certificate_check_interval },
            wake: wake.clone(),
        };
        let count = list.members.len();
        let fields = json!({ "runtime": options.runtime.name(), "list": list.path, "certificates": count });
        let plural = if count == 1 { "" } else { "s" };
        let sentence = format!("started: keeping {count} certificate{plural} of {}", list.path.display());
        context.report.event("started", fields, &sentence);
        let mut bundles = ListedBundles::new(&list.path, wake.clone());
        bundles.follow(list.trust_bundles, &shared)?;
        let members = list.members.into_iter().map(|member| (member.name.clone(), Slot::new(member))).collect();
        let now = clock::now().instant;
        let listed = Self {
            context,
            path: list.path,
            shared,
            restorer: Restorer::new(files.clone(), wake.clone()),
            starter: Starter::new(wake),
            files,
            configurations: change::workers(),
            members,
            ending: Vec::new(),
            started_at: now,
            next_store_poll: now.after(STORE_POLL),
            absence: Absence::default(),
            bundles,
            has_started: false,
        };
        listed.observe();
        Ok(listed)
    }

    /// Runs the main loop until a signal or, with `--once`, until all certificates are in place.
    ///
    /// # Errors
    /// [`Failure::Usage`] if no member at all could start. [`Failure::Failed`] if no member had a valid certificate for
    /// as long as `--exit-without-certificate` allows, or if a rotation has ended by itself. With `--once`, also if a
    /// member could not start, or a signal has come before all certificates are in place.
    pub(super) fn until_ended(&mut self) -> Result<Ended, Failure> {
        loop {
            let now = clock::now().instant;
            self.context.observers.serve(self.context.report);
            self.take_outcomes(now)?;
            // Before the starts, which wait for rotations that end.
            self.report();
            self.begin_due_starts(now);
            [self.starter.workers(), &self.files].into_iter().for_each(Workers::replace_hanging);
            self.poll_stores(now);
            self.notify_service(now);
            self.poll_expiry(now)?;
            if let Some(ended) = self.ended_once()? {
                return Ok(ended);
            }
            if let Some(reporter) = self.reporters().find(|reporter| reporter.rotation.handle().has_ended()) {
                let why = format!("{}: the rotation has ended by itself; please report this as a bug", reporter.of);
                return Err(Failure::Failed(why));
            }
            self.context.wait(Some(self.next_poll(now)));
            // Checked first: a reload that arrived as well must not delay the end.
            if self.context.wakes.is_stopping() {
                return self.stopped();
            }
            self.context.rotate_demanded(self.members.iter().map(|(name, slot)| (name.as_str(), slot.handle())));
            if self.context.wakes.is_to_reload() {
                self.reload();
            }
        }
    }

    /// Stops all rotations, and reports their last notices. Logs the members that have not ended after [`END`].
    pub(super) fn stop(&mut self) {
        // After a signal, the process is ended by force at that time. After an error, no signal may have come.
        if !self.shared.rotations.finish_within(END) {
            let running = self.members.values().filter_map(Slot::active).chain(&self.ending);
            let hanging = running.filter(|active| !active.reporter.rotation.handle().has_ended());
            let names = hanging.map(|active| active.reporter.of.as_str()).collect::<Vec<_>>().join(", ");
            tracing::error!(
                "{names}: not stopped within {}: a disk or a key source does not answer; exiting without waiting",
                words(END)
            );
        }
        self.report();
    }

    /// The reporters of all running members.
    fn reporters(&self) -> impl Iterator<Item = &CertReporter> {
        self.members.values().filter_map(Slot::active).map(|active| &active.reporter)
    }

    /// Passes the certificates and the API servers to the observers.
    fn observe(&self) {
        let certificates = self.members.iter().map(|(name, slot)| (name.clone(), slot.source()));
        self.context.observers.watch(certificates, self.shared.servers.all());
        self.context.observers.set_bundles(self.bundles.followed.files());
    }

    /// Takes over the members that have started, and plans the next attempt for those that could not start.
    fn take_outcomes(&mut self, now: Instant) -> Result<(), Failure> {
        let mut is_news = false;
        while let Some(Outcome { name, is_late, is_outdated, result }) = self.starter.outcome() {
            is_news = true;
            let Some(slot) = self.members.get_mut(&name).filter(|_| !is_late) else {
                result.into_iter().for_each(|active| self.end(active));
                continue;
            };
            match result {
                Ok(active) => {
                    self.has_started = true;
                    slot.blocked_on.set(String::new());
                    slot.phase = Phase::Running(Box::new(active));
                    if is_outdated {
                        self.follow(&[name]);
                    }
                }
                Err(why) => {
                    let why = format!("cannot start: {why}");
                    if slot.blocked_on.set(why.clone()) != why {
                        tracing::error!("{name}: {why}; trying again every {}", words(START_RETRY));
                        self.context.report.event("trouble", json!({ "of": name, "reason": why }), "");
                    }
                    slot.phase = Phase::Failed { why, retry_at: now.after(START_RETRY) };
                }
            }
        }
        if is_news {
            self.observe();
        }
        if self.has_started {
            return Ok(());
        }
        let failed = |slot: &Slot| if let Phase::Failed { why, .. } = &slot.phase { Some(why.clone()) } else { None };
        let failed: Option<Vec<_>> = self.members.iter().map(|(name, slot)| Some((name, failed(slot)?))).collect();
        match failed.unwrap_or_default().first() {
            Some((name, why)) => Err(Failure::Usage(format!("no certificate of the list can start; {name}: {why}"))),
            None => Ok(()),
        }
    }

    /// Begins the starts that are due. A member waits for the end of earlier rotations and starts with its name or its
    /// files: the lock of the files is theirs until then.
    fn begin_due_starts(&mut self, now: Instant) {
        for slot in self.members.values_mut() {
            let is_due = match &slot.phase {
                Phase::Due => true,
                Phase::Failed { retry_at, .. } => *retry_at <= now && !self.context.options.once,
                Phase::Starting(_) | Phase::Running(_) => false,
            };
            let has_to_wait = |member: &Member| {
                let ending = self.ending.iter().any(|active| active.config().member.conflicts_with(member));
                ending || self.starter.delays(member)
            };
            if !is_due || has_to_wait(&slot.member) {
                continue;
            }
            let (member, shared) = (slot.member.clone(), self.shared.clone());
            let start = self.starter.begin(slot.member.clone(), move || Active::start(member, &shared));
            slot.phase = Phase::Starting(start);
        }
    }

    /// Reports what is new about each certificate. Forgets the rotations that have ended of removed members.
    fn report(&mut self) {
        let Context { report, hooks, .. } = &self.context;
        self.members.values_mut().filter_map(Slot::active_mut).for_each(|active| active.poll(report, hooks));
        self.bundles.followed.report(report);
        self.ending.retain_mut(|active| {
            // Read first: the rotation may change its certificate until it has ended.
            let has_ended = active.reporter.rotation.handle().has_ended();
            active.poll(report, hooks);
            !has_ended
        });
    }

    fn poll_stores(&mut self, now: Instant) {
        if now < self.next_store_poll {
            return;
        }
        self.next_store_poll = now.after(STORE_POLL);
        let mut stores = Vec::new();
        for active in self.members.values().filter_map(Slot::active) {
            let name = &active.reporter.of;
            match active.files() {
                MemberStore::Directory(_) => {
                    // An error is that of a thread, which the next poll needs as well.
                    let _ = self.files.begin(&format!("missing {name}"), active.reporter.restoration());
                }
                // The files of a certificate in memory are old: the rotation writes them.
                store if active.reporter.is_on_disk() => {
                    stores.push((active.reporter.rotation.handle().clone(), store.clone()));
                }
                MemberStore::Files(_) | MemberStore::Volume(..) => {}
            }
        }
        self.restorer.begin(stores);
    }

    fn notify_service(&mut self, now: Instant) {
        let is_on_disk = |slot: &Slot| slot.active().is_some_and(|active| active.reporter.is_on_disk());
        let ready = now.since(self.started_at) >= READY_AFTER || self.members.values().all(is_on_disk);
        let summary = summary(self.members.iter().map(|(name, slot)| (name.as_str(), slot.activity())));
        let troubles = self.bundles.followed.troubles();
        self.context.notify_service(ready, [summary].into_iter().chain(troubles).collect());
    }

    /// Checks the limit of `--exit-without-certificate`: for a list, the time without any valid certificate.
    fn poll_expiry(&mut self, now: Instant) -> Result<(), Failure> {
        let is_missing = self.reporters().all(|reporter| reporter.rotation.handle().credential().is_none());
        let most = self.context.options.service.exit_without_certificate;
        let Some(since) = self.absence.beyond(most, is_missing, now) else { return Ok(()) };
        let since = words(since);
        let why = format!("no certificate of the list has been valid for {since}{}", self.last_trouble());
        Err(Failure::Failed(why))
    }

    /// The end of a run with `--once`; `None` if a member is not in place yet, and without `--once`.
    ///
    /// # Errors
    /// [`Failure::Failed`] if all other members are in place, and a member could not start.
    fn ended_once(&self) -> Result<Option<Ended>, Failure> {
        if !self.context.options.once {
            return Ok(None);
        }
        let mut failed = None;
        for (name, slot) in &self.members {
            match &slot.phase {
                Phase::Running(active) if active.reporter.is_in_place() && !active.is_unpublished() => {}
                Phase::Failed { why, .. } => failed = failed.or_else(|| Some(format!("{name}: {why}"))),
                _ => return Ok(None),
            }
        }
        if !self.bundles.followed.are_settled() {
            return Ok(None);
        }
        let failed = failed.or_else(|| self.bundles.followed.troubles().next());
        failed.map_or(Ok(Some(Ended::InPlace)), |why| Err(Failure::Failed(why)))
    }

    fn stopped(&self) -> Result<Ended, Failure> {
        if !self.context.options.once {
            return Ok(Ended::Stopped);
        }
        let why = format!("interrupted before all certificates were in place{}", self.last_trouble());
        Err(Failure::Failed(why))
    }

    /// The first error of a member, as a clause that ends a sentence; empty if there is none.
    fn last_trouble(&self) -> String {
        let trouble = |(name, slot): (&String, &Slot)| {
            let why = match &slot.phase {
                Phase::Failed { why, .. } => why.as_str(),
                Phase::Running(active) => active.reporter.trouble()?,
                Phase::Due | Phase::Starting(_) => return None,
            };
            Some(format!("; last error: {name}: {why}"))
        };
        self.members.iter().find_map(trouble).unwrap_or_default()
    }

    /// Time until the main loop must poll files, start a member again, or check a limit: no event wakes the loop then.
    fn next_poll(&self, now: Instant) -> Duration {
        let retries = self.members.values().filter_map(|slot| match slot.phase {
            Phase::Failed { retry_at, .. } => Some(retry_at.since(now)),
            _ => None,
        });
        let ready = self.started_at.after(READY_AFTER).since(now);
        let short = !self.ending.is_empty()
            || self.starter.workers().is_waiting()
            || self.files.is_waiting()
            || self.context.options.service.exit_without_certificate.is_some();
        let others =
            [Some(self.next_store_poll.since(now)), (!ready.is_zero()).then_some(ready), short.then_some(SHORT_POLL)];
        retries.chain(others.into_iter().flatten()).min().unwrap_or(SHORT_POLL)
    }
}
