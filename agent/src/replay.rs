//! `perennial replay`: executes every step of a journal again, and prints what happened.

mod count;
mod lines;
mod story;

use std::collections::BTreeSet;

use perennial::{Escaped, Failure as Failed, Now};
use perennial_rotation::journal::{Replay, ReplayError, Replayed};
use serde_json::{Value, json};

use crate::cli;
use crate::failure::Failure;
use crate::report::{Report, with};
use count::{Count, time};
use lines::{JournalLines, Line};
use story::Story;

/// Runs `perennial replay`. Prints what happened in each line of the journal, and a summary. Leaves out clock checks
/// that changed nothing, unless `--all` is given.
///
/// # Errors
/// [`Failure::Failed`] if the replay of a step differs from the journal, or a line is damaged. [`Failure::Usage`] if a
/// file cannot be read, is of another format version, or no line can be replayed.
pub(crate) fn replay(options: &cli::Replay) -> Result<(), Failure> {
    let opened = options.files.iter().map(|path| {
        let unreadable = |error| Failure::Usage(format!("{}: cannot be read: {error}", path.display()));
        Ok((JournalLines::open(path).map_err(unreadable)?, unreadable))
    });
    // All files are opened before anything is printed, so that a wrong path gets the error alone.
    let opened = opened.collect::<Result<Vec<_>, Failure>>()?;
    let mut replayer = Replayer::new(options);
    for (mut lines, unreadable) in opened {
        while let Some(line) = lines.next().map_err(unreadable)? {
            replayer.line(&lines.place(), &line)?;
        }
    }
    replayer.finish()
}

/// Replays the lines of all files in order, reports what happened in each line, and counts the results.
struct Replayer {
    report: Report,
    /// True if clock checks that change nothing are reported, too.
    all: bool,
    replay: Replay,
    /// Place (`FILE:NUMBER`) of the previous line if that line was incomplete, else `None`. The line after it decides
    /// whether the incomplete line counts as cut short or as damaged: see [`settle_cut`](Self::settle_cut).
    cut: Option<String>,
    /// Names of the machines for which the journal had a step before any snapshot, so that the step could not be
    /// replayed.
    missing: BTreeSet<String>,
    count: Count,
}

impl Replayer {
    fn new(options: &cli::Replay) -> Self {
        Self {
            report: if options.json { Report::Json(None) } else { Report::Sentences },
            all: options.all,
            replay: Replay::new(),
            cut: None,
            missing: BTreeSet::new(),
            count: Count::default(),
        }
    }

    fn line(&mut self, place: &str, line: &Line) -> Result<(), Failure> {
        let Line::Text(text) = line else {
            self.settle_cut(false);
            self.report_damage(place, "the line is longer than any line of a journal");
            return Ok(());
        };
        // After a power cut, file systems may show zeros where a line was not written yet.
        let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        if text.is_empty() {
            return Ok(());
        }
        let replayed = self.replay.line(text);
        let begins = replayed.as_ref().is_ok_and(|replayed| replayed.step().is_none());
        // Before this line is reported, so that the output keeps the order of the journal.
        self.settle_cut(begins);
        match replayed {
            Ok(replayed) => self.report_replayed(place, &replayed),
            Err(ReplayError::Cut) => self.cut = Some(place.to_owned()),
            // Ends the replay: no later line of such a journal can be replayed.
            Err(error @ ReplayError::Version(_)) => return Err(Failure::Usage(format!("{place}: {error}"))),
            Err(ref error @ ReplayError::Differs { ref of, at, .. }) => self.report_difference(place, (of, at), error),
            // Counted, and reported only for the machine's first step: all its steps up to a snapshot lack the machine.
            Err(ReplayError::NotBegun(of)) if !self.missing.insert(of.clone()) => {
                self.count.damaged.push(place.to_owned())
            }
            Err(error) => self.report_damage(place, &error.to_string()),
        }
        Ok(())
    }

    fn report_replayed(&mut self, place: &str, replayed: &Replayed) {
        let failure = self.count.add(replayed);
        if replayed.is_uneventful() && !self.all {
            return;
        }
        let story = Story::of(replayed);
        let name = if replayed.step().is_some() { "step" } else { "begin" };
        let fields = json!({
            "happened": story.happened,
            "followed": story.followed,
            "leaves": story.leaves,
            "failure": failure.map(Failed::name),
            "perennial": replayed.perennial,
        });
        self.report_event(name, place, Some((&replayed.of, replayed.at)), fields, &story.to_string());
    }

    fn report_difference(&mut self, place: &str, whose: (&str, Now), error: &ReplayError) {
        self.count.steps += 1;
        self.count.differ.push(place.to_owned());
        let sentence = format!("DIFFERS, {place}: {error}");
        self.report_event("differs", place, Some(whose), json!({ "reason": error.to_string() }), &sentence);
    }

    fn report_damage(&mut self, place: &str, why: &str) {
        self.count.damaged.push(place.to_owned());
        self.report_event("damaged", place, None, json!({ "reason": why }), &format!("DAMAGED, {place}: {why}"));
    }

    /// Reports the previous line if that line was incomplete. If a snapshot or the end of the journal follows
    /// (`begins`), reports the line as cut short: the process ended, or the disk was full, in the middle of the line.
    /// If any other line follows, reports the incomplete line as damaged.
    fn settle_cut(&mut self, begins: bool) {
        let Some(place) = self.cut.take() else { return };
        if begins {
            self.count.cut += 1;
            let sentence = format!("CUT SHORT, {place}: the process ended or the disk was full here");
            self.report_event("cut", &place, None, Value::Null, &sentence);
        } else {
            self.report_damage(&place, &ReplayError::Cut.to_string());
        }
    }

    /// Reports the event `name` with its place in the journal, and with the certificate's name and the time (`whose`)
    /// if these are known.
    fn report_event(&mut self, name: &str, place: &str, whose: Option<(&str, Now)>, fields: Value, sentence: &str) {
        let object = match whose {
            Some((of, at)) => json!({ "place": place, "of": of, "at": at.unix.to_string() }),
            None => json!({ "place": place }),
        };
        // In a journal of one certificate, only snapshots name it.
        let several = self.count.machines.len() > 1;
        let head = whose.map(|(of, at)| {
            let of = if several || name == "begin" { format!("{of}: ") } else { String::new() };
            format!("{}  {of}", time(at.unix))
        });
        let sentence = Escaped(&format!("{}{sentence}", head.unwrap_or_default())).to_string();
        self.report.event(name, with(object, fields), &sentence);
    }

    fn finish(mut self) -> Result<(), Failure> {
        // An incomplete last line is no damage: its process may have been killed, or may still be writing.
        self.settle_cut(true);
        let Self { report, count, .. } = self;
        let verdict = count.verdict();
        // Without a replayed line, there is nothing to sum up: the error is reported alone.
        if !matches!(verdict, Err(Failure::Usage(_))) {
            report.event("summary", count.to_json(), &count.to_text());
        }
        verdict
    }
}
