//! `perennial-dev forecast`: load and outages of a cluster, from its certificates.

mod cluster;
mod estimate;
mod read;

use std::time::Duration;

use perennial::{UnixTime, Validity};
use perennial_rotation::clock;
use perennial_simulation::{BEGIN, Report};
use serde_json::{Value, json};

use crate::Failure;
use crate::fleet_options::{Forecast, SHORTEST_LIFETIME};
use crate::report::print_line;
use crate::simulate::summary::{grouped, sums};
use estimate::{Fleet, Lifetime, WorstOutage};

const HOUR: usize = 3600;
const DAY: usize = 86_400;

pub(crate) fn forecast(options: &Forecast) -> Result<(), Failure> {
    let now = options.at.map_or_else(|| clock::now().unix, |at| UnixTime::from_millis(at.as_millisecond()));
    let certificates = match (&options.kubeconfig, &options.source) {
        (Some(kubeconfig), _) => cluster::read(kubeconfig)?,
        (None, Some(source)) => read::read(source, now, options.lifetime)?,
        (None, None) => return Err(Failure::usage("expected SOURCE or --kubeconfig")),
    };
    let expired = certificates.iter().filter(|validity| validity.expired(now)).count();
    let fleet = fleet(options, &certificates, now)?;
    let undisturbed = fleet.undisturbed();
    let findings = Findings {
        now,
        expired,
        outages: fleet.worst_outages(&undisturbed),
        lifetimes: fleet.lifetimes(),
        undisturbed,
        fleet,
    };
    if options.json {
        print_line(&findings.json().to_string());
    } else {
        print_line(&findings.text());
    }
    Ok(())
}

/// The fleet of these certificates, their times moved from `now` to the start of every simulation.
fn fleet(options: &Forecast, certificates: &[Validity], now: UnixTime) -> Result<Fleet, Failure> {
    let mut lifetimes: Vec<Duration> = certificates.iter().map(Validity::lifetime).collect();
    lifetimes.sort_unstable();
    let median = lifetimes.get(lifetimes.len() / 2).copied().unwrap_or_default();
    let lifetime = options.lifetime.unwrap_or(median);
    if lifetime < SHORTEST_LIFETIME {
        let why = "a forecast needs lifetimes of 1m or more; give that of the certificates to come with --lifetime";
        return Err(Failure::usage(format!("the median lifetime is {}; {why}", time(lifetime))));
    }
    let moved = |at: UnixTime| {
        let since = at.as_millis().saturating_sub(now.as_millis());
        UnixTime::from_millis(BEGIN.as_millis().saturating_add(since))
    };
    let moved = certificates.iter().map(|old| Validity::new(moved(old.not_before()), moved(old.not_after())));
    let certificates = moved.collect::<Result<Vec<_>, _>>()?;
    let latest = certificates.iter().map(|validity| validity.not_after().since(BEGIN)).max().unwrap_or_default();
    Ok(Fleet { certificates: certificates.into(), latest, lifetime, span: options.span, program: options.policy })
}

/// The findings of a forecast.
struct Findings {
    now: UnixTime,
    /// The certificates that had expired before the forecast began.
    expired: usize,
    fleet: Fleet,
    undisturbed: Report,
    outages: Vec<WorstOutage>,
    lifetimes: Vec<Lifetime>,
}

/// The submissions of a day.
struct Day {
    begins: UnixTime,
    submissions: u64,
    /// The busiest hour: its start, and its submissions.
    busiest: (UnixTime, u64),
}

/// A span of time in days, hours, minutes and seconds, the largest unit first: `7d 13h 12m`, and `24h` for a day.
fn time(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds == 86_400 {
        return "24h".to_owned();
    }
    let units = [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let parts = units.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, unit)| format!("{}{unit}", grouped(count))).collect();
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

impl Findings {
    fn at(&self, elapsed: Duration) -> UnixTime {
        self.now.after(elapsed)
    }

    /// Days of 24 hours from the start of the forecast.
    fn days(&self) -> Vec<Day> {
        let hours = sums(self.undisturbed.submissions.iter(), HOUR);
        let begins = |hour: usize| self.at(Duration::from_secs((hour * HOUR) as u64));
        let days = hours.chunks(DAY / HOUR).enumerate().map(|(day, hours)| {
            let first = day * DAY / HOUR;
            // The earliest of equally busy hours.
            let busiest = hours.iter().enumerate().fold((0, 0), |busiest, (hour, interval)| {
                if interval.sum > busiest.1 { (hour, interval.sum) } else { busiest }
            });
            let submissions = hours.iter().map(|interval| interval.sum).sum();
            Day { begins: begins(first), submissions, busiest: (begins(first + busiest.0), busiest.1) }
        });
        days.collect()
    }

    /// The busiest hour of these days, the earliest of equally busy ones.
    fn busiest(&self, days: &[Day]) -> (UnixTime, u64) {
        let hours = days.iter().map(|day| day.busiest);
        hours.fold((self.now, 0), |busiest, hour| if hour.1 > busiest.1 { hour } else { busiest })
    }

    /// The mean number of submissions in an hour.
    fn mean(&self) -> f64 {
        self.undisturbed.submissions.total() as f64 * HOUR as f64 / self.fleet.span.as_secs_f64()
    }

    fn text(&self) -> String {
        let Fleet { certificates, lifetime, span, program, .. } = &self.fleet;
        let (lifetime, span) = (time(*lifetime), time(*span));
        let fleet = match certificates.len() {
            1 => "1 certificate".to_owned(),
            many => format!("{} certificates", grouped(many as u64)),
        };
        let mut lines =
            vec![format!("{fleet}; {span} from {} on, each new certificate for {lifetime}, {program}", self.now)];
        match self.expired {
            0 => {}
            1 => lines.push("1 of them has expired: its node submits at once".to_owned()),
            many => lines.push(format!("{} of them have expired: their nodes submit at once", grouped(many as u64))),
        }
        let days = self.days();
        let (at, most) = self.busiest(&days);
        let share = most as f64 / self.mean().max(f64::MIN_POSITIVE);
        lines.push(format!(
            "\nThe load peaks in the hour from {at} on: {} submission{}, {share:.1} times the mean",
            grouped(most),
            if most == 1 { "" } else { "s" }
        ));
        lines.push(format!(
            "\n{:<22}{:>13}  {:<20}{:>13}",
            "day from", "submissions", "busiest hour from", "submissions"
        ));
        for Day { begins, submissions, busiest: (hour, most) } in days {
            let hour =
                if most == 0 { "-".to_owned() } else { format!("{:<20}{:>13}", hour.to_string(), grouped(most)) };
            lines.push(format!("{:<22}{:>13}  {hour}", begins.to_string(), grouped(submissions)));
        }
        lines.push(format!("\n{:<22}{:>13}  worst time to begin", "signer outage of", "expire"));
        for WorstOutage { lasts, from, expiries } in &self.outages {
            let worst = if *expiries == 0 { "-".to_owned() } else { self.at(*from).to_string() };
            lines.push(format!("{:<22}{:>13}  {worst}", time(*lasts), grouped(*expiries)));
        }
        lines.push(format!("\n{:<22}{:>13}  load is even after", "with a lifetime of", "each day"));
        for Lifetime { lifetime, rotations_a_day, even_after } in &self.lifetimes {
            let after = even_after.map_or_else(|| "more than was simulated".to_owned(), time);
            let (whole, tenth) =
                ((rotations_a_day * 10.0).round() as u64 / 10, (rotations_a_day * 10.0).round() as u64 % 10);
            lines.push(format!("{:<22}{:>13}  {after}", time(*lifetime), format!("{}.{tenth}", grouped(whole))));
        }
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let hour = |(at, submissions): (UnixTime, u64)| json!({ "at": at.to_string(), "submissions": submissions });
        let days = self.days();
        let busiest = self.busiest(&days);
        let days = days.into_iter().map(|day| {
            json!({ "from": day.begins.to_string(), "submissions": day.submissions, "busiest_hour": hour(day.busiest) })
        });
        let outages = self.outages.iter().map(|outage| {
            json!({
                "lasts_seconds": outage.lasts.as_secs(),
                "worst_from": self.at(outage.from).to_string(),
                "expiries": outage.expiries,
            })
        });
        let lifetimes = self.lifetimes.iter().map(|choice| {
            json!({
                "lifetime_seconds": choice.lifetime.as_secs_f64(),
                "rotations_a_day": choice.rotations_a_day,
                "even_after_seconds": choice.even_after.map(|after| after.as_secs_f64()),
            })
        });
        json!({
            "from": self.now.to_string(),
            "certificates": self.fleet.certificates.len(),
            "expired": self.expired,
            "lifetime_seconds": self.fleet.lifetime.as_secs_f64(),
            "program": self.fleet.program.to_string(),
            "submissions": self.undisturbed.submissions.total(),
            "mean_per_hour": self.mean(),
            "busiest_hour": hour(busiest),
            "days": days.collect::<Vec<_>>(),
            "outages": outages.collect::<Vec<_>>(),
            "lifetimes": lifetimes.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_of_falling_size() {
        let shown = [0, 59, 90, 3600, 86_400, 172_800, 652_320, 90_061].map(|span| time(Duration::from_secs(span)));
        assert_eq!(shown, ["0s", "59s", "1m 30s", "1h", "24h", "2d", "7d 13h 12m", "1d 1h 1m 1s"]);
    }
}
