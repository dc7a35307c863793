//! SIGHUP with a list: starts added members, ends removed ones, and changes the running rotations of changed ones.
//! Members that did not change are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use perennial_rotation::clock;
use serde_json::json;

use super::Listed;
use super::member::{Active, Reread};
use super::slot::{Phase, Slot};
use super::workers::Workers;
use crate::certificates::{List, Member};
use crate::failure::Failure;
use crate::spans::words;

/// Longest time that a reload, and with it the main loop, waits for the files that running members name.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time from which the reading of a member's files counts as hanging, so that another thread reads those of the next.
const HANGS_AFTER: Duration = Duration::from_millis(500);
/// Most threads that read, without those that hang.
const THREADS: usize = 8;

/// The names of the members that a reload adds, changes and removes.
#[derive(Default)]
struct Changes {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

impl Changes {
    fn describe(&self) -> String {
        let kinds = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let kinds = kinds.into_iter().filter(|(_, names)| !names.is_empty());
        let kinds: Vec<_> = kinds.map(|(kind, names)| format!("{kind} {}", names.join(", "))).collect();
        if kinds.is_empty() { "nothing has changed".into() } else { kinds.join("; ") }
    }
}

/// The threads that read the configurations of running members again.
pub(super) fn workers() -> Workers {
    Workers::hanging_after(HANGS_AFTER, "reload", "reading the files that certificates name", THREADS)
}

/// Receives what has been read for each member within [`PATIENCE`].
fn receive(results: &Receiver<(String, Reread)>, workers: &Workers) -> BTreeMap<String, Reread> {
    let end = Instant::now() + PATIENCE;
    let mut read = BTreeMap::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match results.recv_timeout(left.min(HANGS_AFTER)) {
            Ok((name, result)) => drop(read.insert(name, result)),
            Err(RecvTimeoutError::Timeout) if !left.is_zero() => workers.replace_hanging(),
            Err(_) => return read,
        }
    }
}

impl Listed<'_> {
    /// Reads the list again, and applies the differences. A list that cannot be used changes nothing. A member whose
    /// kubeconfig or CA file cannot be read keeps its present configuration. Each error is logged and reported.
    pub(super) fn reload(&mut self) {
        match self.read_again() {
            Ok(list) => {
                if let Err(why) = self.bundles.follow(list.trust_bundles, &self.shared) {
                    tracing::error!("cannot follow the trust bundles of the list: {why}; their files stay as they are");
                }
                self.change_to(list.members);
            }
            Err(why) => {
                let why = format!("reload failed, keeping the current certificates: {why}");
                tracing::warn!("{why}");
                self.context.report.event("trouble", json!({ "reason": why }), "");
            }
        }
    }

    fn read_again(&self) -> Result<List, Failure> {
        super::read(&self.path, self.context.options.node_name.as_deref())
    }

    fn change_to(&mut self, members: Vec<Member>) {
        let mut changes = Changes::default();
        let wanted: BTreeSet<&String> = members.iter().map(|member| &member.name).collect();
        changes.removed.extend(self.members.keys().filter(|name| !wanted.contains(name)).cloned());
        for name in &changes.removed {
            match self.members.remove(name).map(|slot| slot.phase) {
                Some(Phase::Running(active)) => self.end(*active),
                Some(Phase::Starting(start)) => self.starter.give_up(start),
                _ => {}
            }
        }
        let (mut changed, mut kept) = (BTreeSet::new(), Vec::new());
        for member in members {
            let name = member.name.clone();
            match self.members.get_mut(&name) {
                None => {
                    self.members.insert(name.clone(), Slot::new(member));
                    changes.added.push(name);
                }
                Some(slot) => {
                    if slot.member != member {
                        changed.insert(name.clone());
                    }
                    slot.member = member;
                    kept.push(name);
                }
            }
        }
        // The kubeconfigs and the CA files may have changed as well.
        changed.extend(self.follow(&kept));
        changes.changed.extend(changed);
        self.starter.note_reload();
        self.shared.servers.retain_used();
        self.find_replacements();
        // The loop compares the files with their certificates next.
        self.next_store_poll = clock::now().instant;
        // Only a successful reload is announced to systemd. The loop sends READY=1 next.
        self.context.service.reloading();
        self.observe();
        let Changes { added, changed, removed } = &changes;
        let fields = json!({ "added": added, "changed": changed, "removed": removed });
        self.context.report.event("reloaded", fields, &format!("certificate list read again: {}", changes.describe()));
    }

    /// Makes the running rotations of these members follow the members' configurations and the files that these name.
    /// Returns the members whose rotations were changed. Members that could not start are started again at once.
    pub(super) fn follow(&mut self, names: &[String]) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        let (sender, results) = mpsc::channel();
        for name in names {
            let Some(slot) = self.members.get_mut(name) else { continue };
            match &slot.phase {
                Phase::Due | Phase::Starting(_) => {}
                Phase::Failed { .. } => slot.phase = Phase::Due,
                Phase::Running(active) if active.can_become(&slot.member) => {
                    let read = active.rereading(slot.member.clone(), &self.shared);
                    let (name, sender) = (name.clone(), sender.clone());
                    // Without a thread, the result is missing, as if the disk did not answer.
                    let _ = self.configurations.begin(&name.clone(), move || _ = sender.send((name, read())));
                }
                Phase::Running(_) => {
                    let next = Slot::new(slot.member.clone());
                    if let Phase::Running(active) = std::mem::replace(slot, next).phase {
                        self.end(*active);
                    }
                    changed.insert(name.clone());
                }
            }
        }
        drop(sender);
        let mut read = receive(&results, &self.configurations);
        for name in names {
            let Some(active) = self.members.get_mut(name).and_then(Slot::active_mut) else { continue };
            let late = || Err(format!("its files were not read within {}; a disk does not answer", words(PATIENCE)));
            match read.remove(name).unwrap_or_else(late) {
                Ok(None) => {}
                Ok(Some(next)) => {
                    active.apply(next, &self.shared);
                    changed.insert(name.clone());
                }
                Err(why) => {
                    let why = format!("reload failed, keeping the current configuration of this certificate: {why}");
                    tracing::warn!("{name}: {why}");
                    self.context.report.event("trouble", json!({ "of": name, "reason": why }), "");
                }
            }
        }
        changed
    }

    /// Begins to read the files of all running members: another program may have replaced a pair.
    fn find_replacements(&self) {
        for active in self.members.values().filter_map(Slot::active) {
            let key = format!("replacement {}", active.reporter.of);
            if let Err(why) = self.files.begin(&key, active.search_for_replacement()) {
                tracing::warn!("{why}; pairs that other programs have replaced are not read");
                return;
            }
        }
    }

    /// Ends the rotation of a removed member. Its files stay, and so does the record of its hook.
    pub(super) fn end(&mut self, active: Active) {
        self.shared.handles.remove(&active.reporter.of);
        // The call requests the end; the loop observes it.
        drop(active.reporter.rotation.handle().shutdown());
        self.shared.hooks.forget(&active.reporter.of);
        self.ending.push(active);
    }
}
