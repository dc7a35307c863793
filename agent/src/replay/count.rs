//! The summary of a replay.

use std::collections::BTreeMap;

use perennial::{Failure, UnixTime};
use perennial_rotation::News;
use perennial_rotation::journal::Replayed;
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure;
use crate::report::with;
use crate::spans::words;

/// The numbers of steps, issued certificates and failed requests, and the places of damage, in all lines replayed so
/// far.
#[derive(Default, Serialize)]
pub(super) struct Count {
    pub(super) steps: u64,
    issued: u64,
    failed: u64,
    /// Number of steps of each machine, by certificate.
    pub(super) machines: BTreeMap<String, u64>,
    #[serde(skip)]
    span: Option<(UnixTime, UnixTime)>,
    /// Number of steps that the journal lacks, as its snapshots state.
    missing: u64,
    /// Number of lines that are cut short because the process ended or the disk was full.
    pub(super) cut: u64,
    /// Places (`FILE:NUMBER`) of steps whose replay has another result than the journal.
    pub(super) differ: Vec<String>,
    /// Places of damaged lines, and of steps without a snapshot before them.
    pub(super) damaged: Vec<String>,
}

impl Count {
    /// Counts a replayed line. Returns the failure if the line is a step that ended a request with a failure, else
    /// `None`.
    pub(super) fn add(&mut self, replayed: &Replayed) -> Option<Failure> {
        // A snapshot counts its machine, even if no step follows.
        let steps = self.machines.entry(replayed.of.clone()).or_default();
        let from = self.span.map_or(replayed.at.unix, |(from, _)| from);
        self.span = Some((from, replayed.at.unix));
        self.missing += replayed.missing;
        let step = replayed.step()?;
        *steps += 1;
        self.steps += 1;
        for news in step.news() {
            self.issued += u64::from(matches!(news, News::Issued { .. }));
            self.failed += u64::from(matches!(news, News::Failed { .. }));
        }
        step.failure()
    }

    /// The fields of the event `summary`.
    pub(super) fn to_json(&self) -> Value {
        let (from, to) = self.span.map(|(from, to)| (from.to_string(), to.to_string())).unzip();
        with(json!(self), json!({ "from": from, "to": to }))
    }

    /// The summary as three lines of text.
    pub(super) fn to_text(&self) -> String {
        let of: Vec<&str> = self.machines.keys().map(String::as_str).collect();
        let of = if of.is_empty() { String::new() } else { format!(" of {}", of.join(" and ")) };
        let span = self.span.map(|(from, to)| format!("{} to {} ({}): ", time(from), time(to), words(to.since(from))));
        let same = self.steps - self.differ.len() as u64;
        let missing = if self.missing > 0 { format!(", steps missing: {}", self.missing) } else { String::new() };
        format!(
            "replayed {}{of}: {same} identical, {} different\n{}{} issued, {} failed\n\
             damaged lines: {}, cut short: {}{missing}",
            plural(self.steps, "step"),
            self.differ.len(),
            span.unwrap_or_default(),
            plural(self.issued, "certificate"),
            plural(self.failed, "request"),
            self.damaged.len(),
            self.cut,
        )
    }

    /// Returns an error if the replay of a step differs from the journal, or a line could not be replayed.
    pub(super) fn verdict(&self) -> Result<(), failure::Failure> {
        // Without a single replayed line, the input is bad rather than damaged: exit code 2.
        if self.machines.is_empty() && !self.damaged.is_empty() {
            return Err(failure::Failure::usage(
                "no line could be replayed: this is not a journal, or its beginning is missing",
            ));
        }
        let trouble = [("different", &self.differ), ("could not be replayed", &self.damaged)];
        let trouble = trouble.into_iter().filter(|(_, places)| !places.is_empty());
        let trouble: Vec<String> = trouble.map(|(what, places)| format!("{what}: {}", list(places))).collect();
        if trouble.is_empty() { Ok(()) } else { Err(failure::Failure::Failed(trouble.join("; "))) }
    }
}

/// Lists the first ten places, and states how many more there are. There may be many: in a journal without a snapshot,
/// each step is at such a place.
fn list(places: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = places.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    places.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ") + &more
}

fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Formats a time in UTC with milliseconds, always in the same width, so that the output has columns.
pub(super) fn time(at: UnixTime) -> String {
    let (year, month, day, hour, minute, second, millis) = at.civil();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}
