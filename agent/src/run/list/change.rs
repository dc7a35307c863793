//! SIGHUP with a list: starts added members, ends removed ones, and changes the running rotations of changed ones.
//! Members that did not change are not touched.

use perennial_rotation::clock;
use serde_json::json;

use super::member::Active;
use super::resolved::Resolved;
use super::{Listed, Phase, Slot};
use crate::certificates::Member;
use crate::failure::Failure;
use crate::run::cert_reporter::report_replacement;

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

impl Listed<'_> {
    /// Reads the list again, and applies the differences. A list that cannot be used changes nothing. A member whose
    /// kubeconfig or CA file cannot be read keeps its present configuration. Each error is logged and reported.
    pub(super) fn reload(&mut self) {
        match self.read_again() {
            Ok(members) => self.change_to(members),
            Err(why) => {
                let why = format!("reload failed, keeping the current certificates: {why}");
                tracing::warn!("{why}");
                self.context.report.event("trouble", json!({ "reason": why }), "");
            }
        }
    }

    fn read_again(&self) -> Result<Vec<Member>, Failure> {
        Ok(super::read(&self.path, self.context.options.node_name.as_deref())?.members)
    }

    fn change_to(&mut self, members: Vec<Member>) {
        let mut changes = Changes::default();
        let is_wanted = |name: &str| members.iter().any(|member| member.name == name);
        changes.removed.extend(self.members.keys().filter(|name| !is_wanted(name)).cloned());
        for name in &changes.removed {
            match self.members.remove(name).map(|slot| slot.phase) {
                Some(Phase::Running(active)) => self.end(*active),
                Some(Phase::Starting(start)) => self.starter.give_up(start),
                _ => {}
            }
        }
        for member in members {
            let name = member.name.clone();
            match self.members.get_mut(&name) {
                None => {
                    self.members.insert(name.clone(), Slot::new(member));
                    changes.added.push(name);
                }
                Some(slot) => {
                    let is_other = slot.member != member;
                    slot.member = member;
                    // The kubeconfig and the CA file may have changed as well.
                    if self.follow(&name) || is_other {
                        changes.changed.push(name);
                    }
                }
            }
        }
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

    /// Makes the running rotation of member `name` follow the member's configuration and the files that it names.
    /// Returns true if a rotation was changed. A member that could not start is started again at once.
    pub(super) fn follow(&mut self, name: &str) -> bool {
        let Some(slot) = self.members.get_mut(name) else { return false };
        let active = match &mut slot.phase {
            Phase::Running(active) => active,
            Phase::Failed { .. } => {
                slot.phase = Phase::Due;
                return false;
            }
            Phase::Due | Phase::Starting(_) => return false,
        };
        if !active.config().member.is_stored_like(&slot.member) {
            let member = slot.member.clone();
            if let Phase::Running(active) = std::mem::replace(slot, Slot::new(member)).phase {
                self.end(*active);
            }
            return true;
        }
        let next = Resolved::read(slot.member.clone());
        let next = next.and_then(|next| Ok((self.shared.servers.of(&next, self.shared.proxy)?, next)));
        match next {
            Ok((_, next)) if next == *active.config() => false,
            Ok((server, next)) => {
                active.apply(next, server, &self.shared);
                true
            }
            Err(why) => {
                let why = format!("reload failed, keeping the current configuration of this certificate: {why}");
                tracing::warn!("{name}: {why}");
                self.context.report.event("trouble", json!({ "of": name, "reason": why }), "");
                false
            }
        }
    }

    /// Begins to read the files of all running members: another program may have replaced a pair.
    fn find_replacements(&self) {
        for active in self.members.values().filter_map(Slot::active) {
            let (name, handle, store, common_name) = active.replaceable();
            let key = format!("replacement {name}");
            let read = move || report_replacement(&name, &handle, &*store, &common_name);
            if let Err(why) = self.files.begin(&key, read) {
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
