//! One certificate on the page: its life, its next rotation, its problems with their remedies, and its facts.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use perennial::{Now, RotationMachine, State, UnixTime};
use perennial_rotation::{Snapshot, Unpublished};

use super::super::html::{Text, Time};
use super::super::view::CertView;
use super::condition::Condition;
use super::life::Life;
use crate::hook_debt::Debt;
use crate::remedies;
use crate::report;
use crate::spans::words;

/// A certificate with its condition.
pub(super) struct Shown {
    pub(super) view: CertView,
    pub(super) debt: Option<Debt>,
    pub(super) condition: Condition,
}

impl Shown {
    /// Writes the certificate to the page. The details are visible at once if `is_open` is true, else after a click.
    pub(super) fn write(&self, page: &mut String, is_open: bool, now: Now) {
        let (level, words) = self.condition;
        let open = if is_open { " open" } else { "" };
        // Writing to a string does not fail, here and below.
        let _ = write!(
            page,
            "<details class=\"cert {}\"{open}><summary><span class=\"badge\">{words}</span><h2>{}</h2>\
             <span class=\"left\">{}</span>{}</summary>",
            level.class(),
            Text(&self.view.name),
            self.left(now.unix),
            Life::of(&self.view, now.unix).map(|life| life.to_string()).unwrap_or_default(),
        );
        let _ = write!(page, "<p class=\"next\">{}</p>", self.next(now));
        self.write_problems(page);
        self.write_facts(page, now);
        page.push_str("</details>");
    }

    /// The rest of the lifetime, in words.
    fn left(&self, now: UnixTime) -> String {
        let Some(validity) = self.view.certificate().map(|certificate| certificate.validity) else {
            return String::new();
        };
        match validity.expired(now) {
            true => format!("expired {} ago", words(now.since(validity.not_after()))),
            false => format!("{} left", words(validity.not_after().since(now))),
        }
    }

    /// The next rotation or request, and why a certificate is due if one is due, as HTML.
    fn next(&self, now: Now) -> String {
        let Some(snapshot) = &self.view.snapshot else {
            return match self.view.credential {
                Some(_) => "Another program replaces this certificate; perennial only observes it.".into(),
                None => "The rotation has not started yet.".into(),
            };
        };
        let due = snapshot.due.filter(|_| snapshot.state != State::NotEnabled).map(|reason| {
            let is_due = match self.view.due_since() {
                Some(since) => format!("has been due for {}", words(now.instant.since(since))),
                None => "is due".into(),
            };
            format!("A new certificate {is_due}: {}. ", reason.describe())
        });
        let waiting = snapshot.waiting.as_ref().map(|next| {
            let begin = next.chain().certificate().validity.not_before();
            format!(" The next certificate is issued already, and used from {}.", Time(begin))
        });
        let next = self.next_step(snapshot, now);
        format!("{}{next}{}", due.unwrap_or_default(), waiting.unwrap_or_default())
    }

    fn next_step(&self, snapshot: &Snapshot, now: Now) -> String {
        let at = |until: perennial::Instant| {
            let left = until.since(now.instant);
            format!("{}, in {}", Time(now.unix.after(left)), words(left))
        };
        match snapshot.state {
            State::Scheduled { rotate_at } if rotate_at > now.unix => {
                format!("Next rotation at {}, in {}.", Time(rotate_at), words(rotate_at.since(now.unix)))
            }
            State::Scheduled { .. } => "Next rotation at once.".into(),
            State::Requesting { .. } => {
                let since = self.view.machine().and_then(|machine| machine.checkpoint().in_flight);
                let ago = since.map(|(_, since)| format!(" {} ago", words(now.instant.since(since))));
                let progress = self.view.progress().map(|progress| format!(": {}", Text(&progress.to_string())));
                format!("Requested{}{}.", ago.unwrap_or_default(), progress.unwrap_or_default())
            }
            State::BackingOff { until, failures, .. } => {
                let times = if failures == 1 { "a failure" } else { &format!("{failures} failures in a row") };
                format!("Next request at {}, after {times}.", at(until))
            }
            State::Waiting { until, .. } => {
                format!("Next request at {}: spacing or the submission budget allows none earlier.", at(until))
            }
            State::Queued { .. } => {
                "The request is queued: too many others are in flight, and certificates that expire earlier come first."
                    .into()
            }
            State::NoIdentity { .. } => "The request waits for a credential that authenticates it.".into(),
            State::NotEnabled => "Another program replaces this certificate; perennial only observes it.".into(),
            State::NoTemplate => "There is nothing to request: the names of the certificate are not known yet.".into(),
        }
    }

    /// Writes the problems of the certificate, each with its remedy, and the commands for a request that waits for
    /// approval.
    fn write_problems(&self, page: &mut String) {
        let mut problem = |problem: &str, remedy: &str| {
            let _ = write!(
                page,
                "<div class=\"problem\"><p>{}</p><p><b>To do:</b> {}.</p></div>",
                Text(problem),
                Text(remedy)
            );
        };
        let failure = self.view.machine().and_then(RotationMachine::last_failure);
        let unwritten = self.view.unwritten_since();
        match (&self.view.trouble, failure) {
            (Some(trouble), Some(failure)) => problem(trouble, remedies::after_failure(failure)),
            // The write's own error, which the next problem shows.
            (Some(_), None) if unwritten.is_some() => {}
            (Some(trouble), None) => problem(trouble, remedies::STANDING),
            (None, _) => {}
        }
        if let Some(Unpublished { since, error, is_foreign, .. }) = &self.view.unpublished {
            let remedy = if *is_foreign { remedies::FOREIGN } else { remedies::UNPUBLISHED };
            problem(&format!("The certificate is not in its files since {since}: {error}"), remedy);
        // A write that has not failed needs no person.
        } else if let (Some(since), Some(trouble)) = (unwritten, &self.view.trouble) {
            let error = if failure.is_none() { format!(": {trouble}") } else { String::new() };
            problem(&format!("The certificate is in memory only since {since}{error}"), remedies::UNWRITTEN);
        }
        let offset = self.view.snapshot.as_ref().and_then(|snapshot| snapshot.clock_offset);
        if let Some(offset) = offset.filter(|offset| offset.is_large()) {
            problem(&format!("This machine's clock differs from the API server's: {offset}"), remedies::CLOCK);
        }
        if let Some(short) = self.view.snapshot.as_ref().and_then(|snapshot| snapshot.short_lived.as_deref()) {
            problem(short, "let the signer issue longer lifetimes, or begin the rotation window earlier");
        }
        if let Some((owed, failed)) = self.debt.as_ref().and_then(|debt| Some((debt, debt.failed()?))) {
            let next = owed.next.map(|next| next.saturating_duration_since(Instant::now()));
            let next = next.filter(|wait| *wait > Duration::ZERO).map(|wait| format!(", next in {}", words(wait)));
            let attempts = format!("failed attempts: {}{}", failed.attempts, next.unwrap_or_default());
            problem(&format!("{} {}; {attempts}", owed.hook.label, failed.error), remedies::HOOK);
        }
        if let Some(name) = self.view.approvable() {
            write_approval(page, name);
        }
    }

    /// Writes the dates, the names and the counters of the certificate.
    fn write_facts(&self, page: &mut String, now: Now) {
        page.push_str("<dl>");
        let mut fact = |name: &str, value: String| {
            let _ = write!(page, "<dt>{name}</dt><dd>{value}</dd>");
        };
        write_dates(&self.view, &mut fact);
        if let Some(chain) = self.view.credential.as_ref().map(|credential| credential.chain()) {
            let certificate = chain.certificate();
            fact("Subject", Text(&report::subject(&certificate.names)).to_string());
            let addresses = certificate.names.ip_addresses().map(|address| address.to_string());
            let names: Vec<String> = certificate.names.dns_names().map(str::to_owned).chain(addresses).collect();
            if !names.is_empty() {
                fact("Names", Text(&names.join(", ")).to_string());
            }
            fact("Issuer", Text(report::issuer(chain)).to_string());
            fact("Serial", Text(chain.serial()).to_string());
        }
        if let Some(tally) = &self.view.tally {
            let (rotations, submissions, failed) = (tally.rotations, tally.submissions, tally.failed());
            let counts = format!("rotations: {rotations}, requests: {submissions}, failed requests: {failed}");
            fact("Since the start", counts);
            if tally.panics > 0 {
                fact("Panics", format!("{}; please report the panics in the log as bugs", tally.panics));
            }
        }
        if let Some(health) = self.view.health() {
            let ago = words(now.instant.since(health.at.instant));
            fact("API server", format!("{}, {ago} ago", Text(&health.answer.to_string())));
        }
        page.push_str("</dl>");
    }
}

/// Passes the dates in the life of a certificate to `fact`: each with its name, as HTML.
fn write_dates(view: &CertView, fact: &mut impl FnMut(&str, String)) {
    let Some(validity) = view.certificate().map(|certificate| certificate.validity) else { return };
    fact("Valid from", Time(validity.not_before()).to_string());
    if let Some(machine) = view.machine() {
        let (window, lifetime) = (machine.policy().window, validity.lifetime());
        let at = |permille: u16| Time(validity.not_before().after(lifetime / 1000 * permille.into()));
        match machine.renewal() {
            Some(_) => fact("Rotation window", "by the signer's hint".to_owned()),
            None => fact("Rotation window", format!("{} to {}", at(window.from()), at(window.to()))),
        }
        if let Some(point) = machine.rotation_point() {
            fact("Rotation point", Time(point).to_string());
        }
    }
    fact("Valid until", Time(validity.not_after()).to_string());
}

/// Writes the commands that show, approve and deny the CSR object `name`.
fn write_approval(page: &mut String, name: &str) {
    let _ = write!(page, "<div class=\"problem\"><p>CSR {} waits for approval.</p>", Text(name));
    // A name that a shell could take for something else is not part of a command.
    if is_object_name(name) {
        let _ = write!(
            page,
            "<p><b>To do:</b> check who requests which names, then approve or deny the request.</p>\
             <pre>kubectl describe csr {name}\nkubectl certificate approve {name}\nkubectl certificate deny {name}</pre>"
        );
    }
    page.push_str("</div>");
}

/// True for names of CSR objects as perennial makes them: letters, digits, `-`, `_` and `.`, a letter or digit first.
fn is_object_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csr_name_unfit_for_a_shell_is_in_no_command() {
        for (name, is_fit) in [("node-csr-4d_y.X7", true), ("x; rm -rf /", false), ("-x", false), ("", false)] {
            let mut page = String::new();
            write_approval(&mut page, name);
            assert_eq!(page.contains(&format!("kubectl certificate approve {name}\n")), is_fit, "{page}");
        }
    }
}
