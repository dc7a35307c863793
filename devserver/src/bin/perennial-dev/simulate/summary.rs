//! The summary of a simulation: rows of a table, JSON, and numbers over time as CSV.

use std::fmt::Write as _;
use std::time::Duration;

use perennial_simulation::{Outage, OutageKind, Report};
use serde_json::{Value, json};

use crate::fleet_options::{ProgramName, Simulate};

/// The report of one program, and how long its simulation took.
pub(crate) struct Run {
    pub(crate) program: ProgramName,
    pub(crate) report: Report,
    pub(crate) took: Duration,
}

impl Run {
    pub(crate) fn rotations_per_second(&self) -> f64 {
        let rotations = self.report.totals.rotations + self.report.totals.first_certificates;
        rotations as f64 / self.took.as_secs_f64().max(1e-6)
    }
}

/// A row of the table: what is counted, and the number of each program.
pub(crate) struct Row {
    pub(crate) label: &'static str,
    pub(crate) cells: Vec<String>,
}

/// The rows of the table. The last row has times of this computer, and is no result of the simulation.
pub(crate) fn rows(runs: &[Run]) -> Vec<Row> {
    let row = |label, cell: &dyn Fn(&Run) -> String| Row { label, cells: runs.iter().map(cell).collect() };
    let count = |label, number: fn(&Report) -> u64| row(label, &move |run: &Run| grouped(number(&run.report)));
    vec![
        count("rotations", |report| report.totals.rotations),
        count("first certificates", |report| report.totals.first_certificates),
        count("submissions", |report| report.totals.submissions),
        count("  refused or throttled", |report| report.totals.unreachable + report.totals.throttled),
        count("  denied", |report| report.totals.denied),
        count("  given up without a decision", |report| report.totals.abandoned + report.totals.deleted),
        row("  most in one second", &|run| peak(run.report.submissions.peak())),
        count("HTTP requests", |report| report.requests.total()),
        row("  most in one second", &|run| peak(run.report.requests.peak())),
        count("request objects created", |report| report.totals.objects),
        row("  most in etcd at a time", &|run| {
            let (minute, most) = run.report.objects.peak();
            peak((minute * 60, most))
        }),
        count("certificates that expired", |report| report.totals.expiries),
        count("nodes ever without a certificate", |report| report.totals.nodes_without.into()),
        row("  all their time without, together", &|run| time(run.report.totals.without)),
        row("  longest time of one node", &|run| time(run.report.totals.longest_without)),
        row("age at rotation, median", &|run| age(&run.report, 0.5)),
        row("  oldest hundredth", &|run| age(&run.report, 0.99)),
    ]
}

/// The table as text, with a heading of the programs.
pub(crate) fn table(runs: &[Run]) -> String {
    let rows = rows(runs);
    let wide = |column: usize| {
        let cells = rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([runs[column].program.to_string().len()]).max().unwrap_or(0) + 2
    };
    let label = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
    let line = |name: &str, cells: &[String]| {
        let cells = cells.iter().enumerate().map(|(column, cell)| format!("{cell:>width$}", width = wide(column)));
        format!("{name:<label$}{}\n", cells.collect::<String>())
    };
    let heading: Vec<String> = runs.iter().map(|run| run.program.to_string()).collect();
    rows.iter().fold(line("", &heading), |mut text, row| {
        text.push_str(&line(row.label, &row.cells));
        text
    })
}

/// The scenario in a sentence.
pub(crate) fn describe(options: &Simulate) -> String {
    let mut text = format!(
        "{} nodes, certificates valid for {}, {} simulated, seed {}",
        grouped(options.nodes.into()),
        time(options.lifetime),
        time(options.span),
        options.seed
    );
    if let Some(within) = options.installed_within {
        let _ = write!(text, "; all installed within {}", time(within));
    }
    for outage in &options.outage {
        let _ = write!(text, "; {}", describe_outage(outage));
    }
    for at in &options.restart_all {
        let _ = write!(text, "; all restart at {}", time(*at));
    }
    if options.denied > 0.0 {
        let _ = write!(text, "; {} % of requests are denied", options.denied * 100.0);
    }
    if !options.approver_delay.is_zero() {
        let _ = write!(text, "; the approver takes {}", time(options.approver_delay));
    }
    text
}

fn describe_outage(outage: &Outage) -> String {
    let what = match outage.kind {
        OutageKind::Refused => "the API server refuses connections".to_owned(),
        OutageKind::Unavailable { retry_after } => {
            format!("the API server answers 503 with Retry-After {}", time(retry_after))
        }
        OutageKind::Undecided => "approver and signer do not work".to_owned(),
    };
    format!("from {} on, {what} for {}", time(outage.from), time(outage.lasts))
}

/// The summary as JSON. Times are in seconds.
pub(crate) fn json(options: &Simulate, runs: &[Run]) -> Value {
    let peak = |(at, most): (usize, u64)| json!({ "at": at, "number": most });
    let programs = runs.iter().map(|run| {
        let Report { totals, submissions, requests, objects, without, ages, .. } = &run.report;
        let (minute, most) = objects.peak();
        let (dark_minute, dark) = without.peak();
        json!({
            "program": run.program.to_string(),
            "rotations": totals.rotations,
            "first_certificates": totals.first_certificates,
            "submissions": totals.submissions,
            "unreachable": totals.unreachable,
            "throttled": totals.throttled,
            "issued": totals.issued,
            "denied": totals.denied,
            "deleted": totals.deleted,
            "abandoned": totals.abandoned,
            "open": totals.open,
            "submissions_peak": peak(submissions.peak()),
            "http_requests": requests.total(),
            "http_requests_peak": peak(requests.peak()),
            "objects": totals.objects,
            "objects_peak": peak((minute * 60, most)),
            "expiries": totals.expiries,
            "nodes_without": totals.nodes_without,
            "nodes_without_peak": peak((dark_minute * 60, dark)),
            "without_seconds": totals.without.as_secs_f64(),
            "longest_without_seconds": totals.longest_without.as_secs_f64(),
            "age_percent": ages,
            "simulated_in_seconds": run.took.as_secs_f64(),
            "rotations_per_second": run.rotations_per_second(),
        })
    });
    json!({
        "nodes": options.nodes,
        "lifetime_seconds": options.lifetime.as_secs_f64(),
        "span_seconds": options.span.as_secs_f64(),
        "seed": options.seed,
        "programs": programs.collect::<Vec<_>>(),
    })
}

/// The numbers over time, a line for each program and interval. Intervals are as long as 10,000 of them cover the span.
pub(crate) fn csv(span: Duration, runs: &[Run]) -> String {
    let step = interval(span, 10_000);
    let mut text = "program,seconds,submissions,most_submissions_per_second,http_requests,\
                    most_http_requests_per_second,objects,nodes_without\n"
        .to_owned();
    for Run { program, report, .. } in runs {
        let [submissions, requests] = [&report.submissions, &report.requests].map(|series| sums(series.iter(), step));
        let [objects, without] = [&report.objects, &report.without].map(|series| {
            let levels: Vec<u64> = series.iter().collect();
            move |second: usize, step: usize| {
                let minutes = second / 60..(second + step).div_ceil(60).min(levels.len());
                levels.get(minutes).and_then(|levels| levels.iter().max().copied()).unwrap_or(0)
            }
        });
        for (number, (posts, https)) in submissions.iter().zip(&requests).enumerate() {
            let second = number * step;
            let (objects, without) = (objects(second, step), without(second, step));
            let _ = writeln!(
                text,
                "{program},{second},{},{},{},{},{objects},{without}",
                posts.sum, posts.most, https.sum, https.most
            );
        }
    }
    text
}

/// The events of an interval: all of them, and the most in one second.
#[derive(Clone, Copy, Default)]
pub(crate) struct Interval {
    pub(crate) sum: u64,
    pub(crate) most: u64,
}

/// The events of each interval of `step` seconds.
pub(crate) fn sums(seconds: impl Iterator<Item = u64>, step: usize) -> Vec<Interval> {
    let mut intervals = vec![];
    for (second, events) in seconds.enumerate() {
        if second % step == 0 {
            intervals.push(Interval::default());
        }
        if let Some(interval) = intervals.last_mut() {
            interval.sum += events;
            interval.most = interval.most.max(events);
        }
    }
    intervals
}

/// The shortest round interval, in seconds, of which `most` cover the span.
pub(crate) fn interval(span: Duration, most: u64) -> usize {
    const ROUND: [u64; 14] = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200];
    let seconds = span.as_secs().max(1);
    let fits = ROUND.into_iter().find(|step| seconds.div_ceil(*step) <= most);
    usize::try_from(fits.unwrap_or_else(|| seconds.div_ceil(most))).unwrap_or(usize::MAX)
}

fn peak((second, most): (usize, u64)) -> String {
    if most == 0 {
        "0".to_owned()
    } else {
        format!("{} at {}", grouped(most), time(Duration::from_secs(second as u64)))
    }
}

/// The age, in percent of the lifetime, that this share of the rotations did not exceed.
fn age(report: &Report, share: f64) -> String {
    let all: u64 = report.ages.iter().sum();
    let mut below = 0;
    let percent = report.ages.iter().position(|rotations| {
        below += rotations;
        below as f64 >= share * all as f64
    });
    if all == 0 { "none".to_owned() } else { format!("{} %", percent.unwrap_or(0)) }
}

/// A number with a comma after each thousand.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// A time such as `10d 06:00:12`, `6h`, `90s` or `0s`: days and a time of day, or a round number of one unit.
pub(crate) fn time(span: Duration) -> String {
    let (seconds, millis) = (span.as_secs(), span.subsec_millis());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    match (days, rest) {
        (0, 0) if millis > 0 => format!("{millis}ms"),
        (0, rest) if rest % 3600 == 0 && rest > 0 => format!("{}h", rest / 3600),
        (0, rest) if rest % 60 == 0 && rest > 0 && rest < 7200 => format!("{}m", rest / 60),
        (0, rest) if rest < 600 => format!("{rest}s"),
        (1, 0) => "24h".to_owned(),
        (days, 0) if days > 0 => format!("{days}d"),
        (days, rest) => {
            let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
            if days == 0 { clock } else { format!("{}d {clock}", grouped(days)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_formatted_for_people() {
        let formatted = [0, 59, 90, 3600, 5400, 33_720, 86_400, 90_061, 31_536_000, 864_000_000]
            .map(|seconds| time(Duration::from_secs(seconds)));
        assert_eq!(formatted, ["0s", "59s", "90s", "1h", "90m", "09:22:00", "24h", "1d 01:01:01", "365d", "10000d"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn interval_is_the_shortest_round_one_that_fits() {
        let of_days = |days: u64| interval(Duration::from_secs(days * 86_400), 10_000);
        assert_eq!([of_days(1), of_days(30), of_days(365)], [10, 300, 3600]);
    }
}
