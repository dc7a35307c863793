//! The figures of a simulation.

use std::time::Duration;

use perennial_simulation::{AGES, Outage, Report};
use plotters::style::RGBColor;

use super::plot::{Chart, Line};
use super::summary::{Run, interval, sums, time};
use crate::fleet_options::{ProgramName, Simulate};

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;
/// The points of a line, at most: there are not many more pixels.
const POINTS: u64 = 700;

/// The colours of the programs: their contrast is enough on white and on black.
const fn color(program: ProgramName) -> RGBColor {
    match program {
        ProgramName::Default => RGBColor(0x2a, 0x7d, 0xe1),
        ProgramName::Kubelet => RGBColor(0x9a, 0x5b, 0xd6),
        ProgramName::ClientGo => RGBColor(0xd9, 0x6a, 0x00),
    }
}

const fn full_name(program: ProgramName) -> &'static str {
    match program {
        ProgramName::Default => "perennial",
        ProgramName::Kubelet => "perennial with kubelet's timing",
        ProgramName::ClientGo => "client-go",
    }
}

/// All figures for these runs.
pub(crate) fn figures(options: &Simulate, runs: &[Run]) -> Vec<Chart> {
    let mut figures = vec![load(options, runs), ages(runs), objects(options, runs)];
    if let Some(outage) = options.outage.first().filter(|outage| outage.from + outage.lasts < options.span) {
        figures.extend([herd(options, runs, outage), without(options, runs, outage)]);
    }
    figures.extend(ratio(options, runs));
    figures
}

/// A unit of time for an axis of this length: its seconds and its label.
fn unit(span: Duration) -> (f64, &'static str) {
    match span.as_secs_f64() {
        seconds if seconds >= 3.0 * DAY => (DAY, "days since the start of the simulation"),
        seconds if seconds >= 3.0 * HOUR => (HOUR, "hours since the start of the simulation"),
        _ => (MINUTE, "minutes since the start of the simulation"),
    }
}

fn lines(runs: &[Run], points: impl Fn(&Report) -> Vec<(f64, f64)>) -> Vec<Line> {
    let line = |run: &Run| Line {
        name: full_name(run.program).to_owned(),
        color: color(run.program),
        points: points(&run.report),
    };
    runs.iter().map(line).collect()
}

fn load(options: &Simulate, runs: &[Run]) -> Chart {
    let (unit, x_label) = unit(options.span);
    let step = interval(options.span, POINTS).max(60);
    let points = |report: &Report| {
        let minutes = sums(report.requests.iter(), 60);
        most(minutes.iter().map(|minute| minute.sum), step, unit)
    };
    Chart {
        name: "load",
        title: "Load on the API server over time".to_owned(),
        caption: format!(
            "HTTP requests to the API server (submissions, lists and watches), in the busiest minute of each {}, on a \
             logarithmic scale. client-go makes three requests for a certificate, perennial two.",
            time(Duration::from_secs(step as u64))
        ),
        x: (0.0, options.span.as_secs_f64() / unit),
        x_label,
        y_label: "HTTP requests per minute",
        is_logarithmic: true,
        lines: lines(runs, points),
    }
}

fn ages(runs: &[Run]) -> Chart {
    let highest = |report: &Report| report.ages.iter().rposition(|rotations| *rotations > 0).unwrap_or(0);
    let last = runs.iter().map(|run| highest(&run.report)).max().unwrap_or(0).clamp(100, AGES - 1) + 1;
    let lowest = |report: &Report| report.ages.iter().position(|rotations| *rotations > 0).unwrap_or(0);
    let first = runs.iter().map(|run| lowest(&run.report)).min().unwrap_or(0) / 10 * 10;
    let points = |report: &Report| {
        let all = report.ages.iter().sum::<u64>().max(1) as f64;
        let share = |percent: usize| 100.0 * report.ages[percent] as f64 / all;
        // A step for each percent.
        (first..last).flat_map(|age| [(age as f64, share(age)), ((age + 1) as f64, share(age))]).collect()
    };
    Chart {
        name: "ages",
        title: "Age of certificates at their rotation".to_owned(),
        caption: "The share of rotations at each age, in percent of the lifetime. Rotations before 90 % are on time, \
                  those beyond 100 % came after the certificate had expired."
            .to_owned(),
        x: (first as f64, last as f64),
        x_label: "age at rotation, percent of the lifetime",
        y_label: "percent of all rotations",
        is_logarithmic: false,
        lines: lines(runs, points),
    }
}

fn objects(options: &Simulate, runs: &[Run]) -> Chart {
    let (unit, x_label) = unit(options.span);
    let step = interval(options.span, POINTS).max(60);
    Chart {
        name: "objects",
        title: "Request objects in etcd".to_owned(),
        caption: format!(
            "The most CertificateSigningRequests at a time, in each {}. kube-controller-manager deletes decided ones \
             about an hour after the decision, undecided ones after a day.",
            time(Duration::from_secs(step as u64))
        ),
        x: (0.0, options.span.as_secs_f64() / unit),
        x_label,
        y_label: "objects",
        is_logarithmic: false,
        lines: lines(runs, |report| most(report.objects.iter(), step, unit)),
    }
}

/// The greatest number in each `step` seconds of a series by minute.
fn most(minutes: impl Iterator<Item = u64>, step: usize, unit: f64) -> Vec<(f64, f64)> {
    let intervals = sums(minutes, step.div_ceil(60));
    intervals
        .iter()
        .enumerate()
        .map(|(number, interval)| ((number * step) as f64 / unit, interval.most as f64))
        .collect()
}

fn herd(options: &Simulate, runs: &[Run], outage: &Outage) -> Chart {
    const BEFORE: u64 = 180;
    const AFTER: u64 = 420;
    /// Each point is the mean of so many seconds: single seconds depend on chance.
    const STEP: usize = 5;
    let ends = (outage.from + outage.lasts).as_secs();
    let (from, to) = (ends.saturating_sub(BEFORE), (ends + AFTER).min(options.span.as_secs()));
    let points = |report: &Report| {
        let at = |second: u64| (second as f64 - ends as f64) / MINUTE;
        let mean = |second: u64| {
            let seconds = second as usize..second as usize + STEP;
            seconds.map(|second| report.submissions.get(second)).sum::<u64>() as f64 / STEP as f64
        };
        (from..to).step_by(STEP).map(|second| (at(second), mean(second))).collect()
    };
    Chart {
        name: "herd",
        title: format!("The herd after an outage of {}", time(outage.lasts)),
        caption:
            "Submissions per second around the end of the outage, each point the mean of 5 s. Until minute 0 all \
                  nodes whose certificates are due retry in vain. Afterwards each of them gets its certificate with its \
                  next retry."
                .to_owned(),
        x: ((from as f64 - ends as f64) / MINUTE, (to as f64 - ends as f64) / MINUTE),
        x_label: "minutes since the end of the outage",
        y_label: "submissions per second",
        is_logarithmic: false,
        lines: lines(runs, points),
    }
}

fn without(options: &Simulate, runs: &[Run], outage: &Outage) -> Chart {
    let ends = outage.from + outage.lasts;
    let to = (ends + (outage.lasts / 4).max(Duration::from_secs(900))).min(options.span);
    let minute = |at: Duration| at.as_secs() / 60;
    let points = |report: &Report| {
        let levels = report.without.iter().zip(0_u64..);
        let shown = levels.skip(usize::try_from(minute(outage.from)).unwrap_or(usize::MAX));
        let x = |at: u64| (at as f64 * MINUTE - outage.from.as_secs_f64()) / HOUR;
        shown.take_while(|(_, at)| *at <= minute(to)).map(|(level, at)| (x(at), level as f64)).collect()
    };
    Chart {
        name: "without",
        title: format!("Nodes without a valid certificate in an outage of {}", time(outage.lasts)),
        caption: format!(
            "Certificates are valid for {}: the first ones expire when a tenth of that has passed, the time between \
             the latest rotation point and the expiry. After the outage, a node recovers with its next retry.",
            time(options.lifetime)
        ),
        x: (0.0, (to - outage.from).as_secs_f64() / HOUR),
        x_label: "hours since the start of the outage",
        y_label: "nodes",
        is_logarithmic: false,
        lines: lines(runs, points),
    }
}

/// The load of perennial over that of client-go; `None`: one of the two was not simulated.
fn ratio(options: &Simulate, runs: &[Run]) -> Option<Chart> {
    let of = |program| runs.iter().find(|run| run.program == program).map(|run| &run.report);
    let (ours, theirs) = (of(ProgramName::Default)?, of(ProgramName::ClientGo)?);
    let (unit, x_label) = unit(options.span);
    // Intervals of a tenth of the lifetime or more: in shorter ones, chance decides.
    let step = interval(options.span, 300).max(usize::try_from(options.lifetime.as_secs() / 10).unwrap_or(60)).max(60);
    let share = |ours: Vec<u64>, theirs: Vec<u64>| {
        let points = ours.into_iter().zip(theirs).enumerate().filter(|(_, (_, theirs))| *theirs > 0);
        points
            .map(|(number, (ours, theirs))| ((number * step) as f64 / unit, 100.0 * ours as f64 / theirs as f64))
            .collect()
    };
    let events = |series: &perennial_simulation::PerSecond| -> Vec<u64> {
        sums(series.iter(), step).iter().map(|interval| interval.sum).collect()
    };
    let lines = vec![
        Line {
            name: "HTTP requests".to_owned(),
            color: RGBColor(0x2a, 0x7d, 0xe1),
            points: share(events(&ours.requests), events(&theirs.requests)),
        },
        Line {
            name: "submissions".to_owned(),
            color: RGBColor(0x1f, 0x9d, 0x6b),
            points: share(events(&ours.submissions), events(&theirs.submissions)),
        },
    ];
    Some(Chart {
        name: "ratio",
        title: "Load of perennial, in percent of client-go's".to_owned(),
        caption: format!(
            "Each point compares {}. Below 100 % perennial is lighter.",
            time(Duration::from_secs(step as u64))
        ),
        x: (0.0, options.span.as_secs_f64() / unit),
        x_label,
        y_label: "percent",
        is_logarithmic: false,
        lines,
    })
}
