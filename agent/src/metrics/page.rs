//! Which metrics there are. Those that kubelet has bear its names; what they mean is kubelet's help text for them.

use std::collections::BTreeMap;

use perennial::{Now, State, UnixTime};

use super::About;
use super::exposition::{Exposition, Kind, Sample, Value};
use super::view::{View, class_and_code};
use crate::cli::{PREFIX, SERVING_PREFIX};
use crate::hook_debt::Debt;

pub(super) fn page(views: &[View], about: &About, now: Now) -> String {
    let mut page = Exposition::default();
    let labels = vec![("version", env!("CARGO_PKG_VERSION")), ("runtime", about.runtime)];
    let build = Sample { labels, value: 1.0.into() };
    page.family("perennial_build_info", Kind::Gauge, "Which perennial this is.", [build]);
    let dropped = about.outputs.iter().map(|(name, lines)| {
        let labels = vec![("output", *name)];
        Sample { labels, value: (lines.dropped() as f64).into() }
    });
    page.family(
        "perennial_output_lines_dropped_total",
        Kind::Counter,
        "Lines of the log or the JSON report that were dropped because their reader was too slow.",
        dropped,
    );
    let journal = |value: f64| Sample { labels: Vec::new(), value: value.into() };
    page.family(
        "perennial_journal_failing",
        Kind::Gauge,
        "1 if the journal cannot be written.",
        about.journal.iter().map(|it| journal(flag(it.trouble().is_some()))),
    );
    page.family(
        "perennial_journal_steps_lost_total",
        Kind::Counter,
        "Steps that are missing in the journal.",
        about.journal.iter().map(|it| journal(it.lost() as f64)),
    );
    let debts = about.debts.as_ref().map(|debts| debts.all().clone()).unwrap_or_default();
    hooks(&mut page, &debts);
    facts(&mut page, views);
    events(&mut page, views);
    situation(&mut page, views, now);
    server(&mut page, views);
    let find = |name| views.iter().find(|view| view.name == name);
    kubelets(&mut page, find(PREFIX), find(SERVING_PREFIX), now);
    page.finish()
}

/// The debts of `--on-rotated`.
fn hooks(page: &mut Exposition, debts: &BTreeMap<String, Debt>) {
    let each = |value: fn(&Debt) -> f64| {
        debts
            .iter()
            .map(move |(of, debt)| Sample { labels: vec![("certificate", of.as_str())], value: value(debt).into() })
    };
    page.family(
        "perennial_hook_owed",
        Kind::Gauge,
        "1 while a successful run of --on-rotated is owed for the certificate in use.",
        each(|debt| flag(debt.owed.is_some())),
    );
    page.family(
        "perennial_hook_failures_total",
        Kind::Counter,
        "Runs of --on-rotated that failed.",
        each(|debt| debt.failures as f64),
    );
}

/// One sample for each certificate of which there is something to say.
fn each<'a, V: Into<Value<'a>>>(
    views: &'a [View],
    value: impl Fn(&'a View) -> Option<V> + 'a,
) -> impl Iterator<Item = Sample<'a>> {
    views.iter().filter_map(move |view| Some(Sample { labels: of(view), value: value(view)?.into() }))
}

fn of(view: &View) -> Vec<(&'static str, &str)> {
    vec![("certificate", &view.name)]
}

fn seconds(at: UnixTime) -> f64 {
    at.as_millis() as f64 / 1000.0
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

/// What the certificate in use says.
fn facts(page: &mut Exposition, views: &[View]) {
    let begin = |view: &View| view.certificate().map(|held| seconds(held.validity.not_before()));
    let end = |view: &View| view.certificate().map(|held| seconds(held.validity.not_after()));
    let rotate = |view: &View| view.machine()?.rotation_point().map(seconds);
    page.family(
        "perennial_certificate_not_before_timestamp_seconds",
        Kind::Gauge,
        "When the validity of the certificate in use began.",
        each(views, begin),
    );
    page.family(
        "perennial_certificate_not_after_timestamp_seconds",
        Kind::Gauge,
        "When the validity of the certificate in use ends.",
        each(views, end),
    );
    page.family(
        "perennial_certificate_rotation_point_timestamp_seconds",
        Kind::Gauge,
        "When the certificate in use is due for rotation.",
        each(views, rotate),
    );
}

/// What has happened.
fn events(page: &mut Exposition, views: &[View]) {
    page.family(
        "perennial_rotations_total",
        Kind::Counter,
        "Certificates replaced by one that was issued.",
        each(views, |view| Some(view.tally.as_ref()?.rotations as f64)),
    );
    page.family(
        "perennial_rotation_age_ratio",
        Kind::Histogram,
        "How much of its lifetime had passed when a certificate was replaced.",
        each(views, |view| Some(&view.tally.as_ref()?.age_ratio)),
    );
    page.family(
        "perennial_rotation_age_seconds",
        Kind::Histogram,
        "How many seconds had passed of its lifetime when a certificate was replaced.",
        each(views, |view| Some(&view.tally.as_ref()?.age_seconds)),
    );
    page.family(
        "perennial_submissions_total",
        Kind::Counter,
        "Attempts to get a certificate that were begun.",
        each(views, |view| Some(view.tally.as_ref()?.submissions as f64)),
    );
    let failed = views.iter().flat_map(|view| {
        let counts = view.tally.iter().flat_map(|tally| &tally.failures);
        counts.map(move |(failure, count)| {
            let labels = [of(view), vec![("reason", failure.name())]].concat();
            Sample { labels, value: (*count as f64).into() }
        })
    });
    page.family("perennial_attempt_failures_total", Kind::Counter, "Attempts that came to nothing.", failed);
    page.family(
        "perennial_write_failures_total",
        Kind::Counter,
        "Attempts to write a certificate to disk that failed.",
        each(views, |view| Some(view.tally.as_ref()?.write_failures as f64)),
    );
}

/// How things are.
fn situation(page: &mut Exposition, views: &[View], now: Now) {
    let states = views.iter().filter_map(|view| Some((view, view.snapshot.as_ref()?.state)));
    let states = states.flat_map(|(view, state)| {
        State::NAMES.iter().map(move |name| {
            let labels = [of(view), vec![("state", *name)]].concat();
            Sample { labels, value: flag(state.name() == *name).into() }
        })
    });
    page.family("perennial_state", Kind::Gauge, "What the rotation is doing: 1 for that.", states);
    let waiting = move |view: &View| {
        let in_flight = view.machine()?.checkpoint().in_flight;
        Some(in_flight.map_or(0.0, |(_, since)| now.instant.since(since).as_secs_f64()))
    };
    page.family(
        "perennial_waiting_seconds",
        Kind::Gauge,
        "For how long the present attempt has been out, unanswered; 0 if none is.",
        each(views, waiting),
    );
    let due = move |view: &View| {
        let since = view.tally.as_ref()?.due_since;
        Some(since.map_or(0.0, |since| now.instant.since(since).as_secs_f64()))
    };
    page.family(
        "perennial_due_seconds",
        Kind::Gauge,
        "For how long a new certificate has been wanted, however often it was asked for; 0 if none is.",
        each(views, due),
    );
    page.family(
        "perennial_unwritten",
        Kind::Gauge,
        "1 if the certificate in use is not on disk yet.",
        each(views, |view| Some(flag(view.snapshot.as_ref()?.unwritten))),
    );
    page.family(
        "perennial_unwritten_seconds",
        Kind::Gauge,
        "For how long the certificate in use has been in memory only; 0 if it is on disk.",
        each(views, move |view| {
            view.tally.as_ref()?;
            Some(view.unwritten_since().map_or(0.0, |since| now.unix.since(since).as_secs_f64()))
        }),
    );
}

/// What the API server said last.
fn server(page: &mut Exposition, views: &[View]) {
    let known = || views.iter().filter_map(|view| Some((view, view.health()?)));
    let codes: Vec<_> = known().map(|(view, health)| (view, class_and_code(health.answer))).collect();
    let answers = codes.iter().map(|(view, (class, code))| {
        let labels = [of(view), vec![("class", *class), ("code", code.as_str())]].concat();
        Sample { labels, value: 1.0.into() }
    });
    page.family("perennial_server_answer", Kind::Gauge, "What came when the API server was asked last.", answers);
    page.family(
        "perennial_server_answer_timestamp_seconds",
        Kind::Gauge,
        "When that came; of like answers to one request, one in ten seconds is told.",
        known().map(|(view, health)| Sample { labels: of(view), value: seconds(health.at.unix).into() }),
    );
    page.family(
        "perennial_server_healthy",
        Kind::Gauge,
        "1 if client-go would call the server healthy after that.",
        known().map(|(view, health)| Sample { labels: of(view), value: flag(health.reference_healthy()).into() }),
    );
    page.family(
        "perennial_server_clock_offset_seconds",
        Kind::Gauge,
        "How far the API server's clock is ahead of this machine's, once three answers have agreed on it.",
        each(views, |view| Some(view.snapshot.as_ref()?.clock_offset?.millis as f64 / 1000.0)),
    );
}

fn kubelets(page: &mut Exposition, client: Option<&View>, serving: Option<&View>, now: Now) {
    let sample = |value| Sample { labels: Vec::new(), value };
    let failed = |view: &View| Some(sample(Value::Number(view.tally.as_ref()?.failed() as f64)));
    let ttl = |view: &View| {
        let left = view.certificate().map(|held| seconds(held.validity.not_after()) - seconds(now.unix));
        sample(left.map_or(f64::INFINITY, f64::trunc).into())
    };
    page.family(
        "kubelet_certificate_manager_client_expiration_renew_errors",
        Kind::Counter,
        "Counter of certificate renewal errors.",
        client.and_then(failed),
    );
    page.family(
        "kubelet_certificate_manager_client_ttl_seconds",
        Kind::Gauge,
        "Seconds until the client certificate expires, negative if it has, +Inf if there is none.",
        client.map(ttl),
    );
    page.family(
        "kubelet_server_expiration_renew_errors",
        Kind::Counter,
        "Counter of certificate renewal errors.",
        serving.and_then(failed),
    );
    page.family(
        "kubelet_certificate_manager_server_rotation_seconds",
        Kind::Histogram,
        "How many seconds a certificate had lived when it was replaced.",
        serving.and_then(|view| Some(sample((&view.tally.as_ref()?.age_seconds).into()))),
    );
    page.family(
        "kubelet_certificate_manager_server_ttl_seconds",
        Kind::Gauge,
        "Seconds until the serving certificate expires, negative if it has, +Inf if there is none.",
        serving.map(ttl),
    );
}
