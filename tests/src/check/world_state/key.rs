//! The key of a state: states with equal keys behave alike, so that the search visits one of them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use perennial::{Certificate, Key, Pending, Template};

use super::{AHEAD, LATE, SEED, Setting, Subject, TEMPLATES, WorldState, spacing};

/// The answers (true or false) to a question about a certificate and each of the three templates, in the order of
/// [`TemplateChoice`](super::setting::TemplateChoice).
type Names = [bool; 3];

/// Facts of a pending record. Times are in milliseconds from now.
#[derive(Hash)]
struct RecordFacts<'a> {
    template: &'a Template,
    key: Key,
    /// The time at which the spacing allows a request.
    may_submit: i64,
    budget_whole: i64,
    /// The number of refusals, and the end of their backoff.
    refusal: Option<(u32, i64)>,
}

impl<S: Subject> WorldState<S> {
    /// The key of this state: a hash of everything that decides what can happen next. The search explores one state for
    /// each key. Times enter the hash as distances from now, so that the same situation at a later time has the same
    /// key.
    pub(in crate::check) fn key(&self, setting: &Setting) -> u64 {
        let mut hasher = DefaultHasher::new();
        let now = self.now;
        let held = self.subject.machine().certificate();
        self.subject.hash_at(now, &mut hasher);
        held.map(|held| self.facts(setting, held)).hash(&mut hasher);
        let other = self.disk.as_ref().filter(|disk| held.is_none_or(|held| held.fingerprint != disk.fingerprint));
        (self.disk.is_some(), other.map(|other| self.facts(setting, other))).hash(&mut hasher);
        let waiting = self.subject.machine().waiting();
        waiting.map(|waiting| self.facts(setting, waiting)).hash(&mut hasher);
        let later = self.later.as_ref().filter(|later| later.validity.not_before() > self.earliest());
        // Whether these are one certificate, since each may come to be served.
        let (disk_waits, disk_later) = (self.disk.as_ref() == waiting, self.disk.as_ref() == later);
        (disk_waits, disk_later).hash(&mut hasher);
        let is_waiting = later.is_some() && later == waiting;
        // When the waiting certificate takes its turn, it is on disk already.
        (self.disk.is_some() && self.disk.as_ref() == waiting).hash(&mut hasher);
        (is_waiting, later.filter(|_| !is_waiting).map(|later| self.facts(setting, later))).hash(&mut hasher);
        self.driver.owed.map(|(_, serve)| serve).hash(&mut hasher);
        (self.ahead, self.unnoticed, self.writing, &self.driver.reusable_key_for).hash(&mut hasher);
        let spacing = setting.policies().map(|policy| spacing(policy)).max().unwrap_or_default();
        self.stale_record.as_ref().map(|record| self.record_facts(spacing, record)).hash(&mut hasher);
        let spaced = self.driver.last_submitted.map_or(Duration::ZERO, |at| at.after(spacing).since(now.instant));
        (self.driver.bucket.level(now.instant), spaced).hash(&mut hasher);
        (self.driver.policy == setting.policy).hash(&mut hasher);
        // No Tick is later than `LATE`.
        let late = self.subject.machine().deadline().map(|at| now.instant.since(at));
        late.map(|late| late.min(Duration::from_millis(LATE))).hash(&mut hasher);
        hasher.finish()
    }

    /// The facts of a certificate that still matter to the machine.
    ///
    /// The first part shows for each template whether the certificate has the template's common name. The second part
    /// is `None` if the certificate has expired by the true time. Otherwise the second part has three facts: notBefore,
    /// the rotation points under the two policies, and notAfter, in milliseconds from now; for each template, whether
    /// the certificate satisfies the template; and whether this is a bootstrap certificate.
    fn facts(&self, setting: &Setting, certificate: &Certificate) -> (Names, Option<([i64; 4], Names, bool)>) {
        let earliest = self.earliest();
        let ahead = |at: perennial::UnixTime| at.max(earliest).as_millis() - self.now.unix.as_millis();
        let validity = certificate.validity;
        let due = [&setting.policy, &setting.other].map(|policy| perennial::rotation_point(policy, SEED, certificate));
        let renewal = self.subject.machine().renewal().and_then(|renewal| renewal.rotation_point_of(certificate));
        let due = renewal.map_or(due, |point| [point; 2]);
        let named = TEMPLATES.each_ref().map(|template| template.is_named_by(certificate));
        let fits = TEMPLATES.each_ref().map(|template| template.satisfied_by(certificate));
        let times = [validity.not_before(), due[0], due[1], validity.not_after()].map(ahead);
        (named, (!validity.expired(earliest)).then_some((times, fits, certificate.provisional)))
    }

    /// The facts of a pending record that matter to a run which starts from this record.
    fn record_facts<'a>(&self, spacing: Duration, record: &'a Pending) -> RecordFacts<'a> {
        let Pending { template, key, submitted, budget_whole, refusal } = record;
        let back = if self.ahead { AHEAD } else { Duration::ZERO };
        // Every policy of the settings reaches its cap after this many failures.
        let (earliest, enough) = (self.now.unix.before(back), 3);
        let ahead = |at: perennial::UnixTime| at.max(earliest).as_millis() - self.now.unix.as_millis();
        let refusal = refusal.map(|refusal| (refusal.failures.min(enough), ahead(refusal.retry_at)));
        RecordFacts {
            template,
            key: *key,
            may_submit: ahead(submitted.after(spacing)),
            budget_whole: ahead(*budget_whole),
            refusal,
        }
    }
}
