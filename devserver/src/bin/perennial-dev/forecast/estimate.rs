//! The numbers of a forecast. All come from simulations of the given certificates.

use std::sync::Arc;
use std::time::Duration;

use perennial::Validity;
use perennial_simulation::{Life, Outage, OutageKind, Report, Scenario, Start, simulate, simulate_with_lives};

use crate::fleet_options::{LONGEST, ProgramName};
use crate::simulate::{Progress, program};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// The longest simulation of a lifetime, in lifetimes: one certificate that ends in years must not make a forecast for
/// lifetimes of minutes endless.
const MOST_LIFETIMES: u32 = 1000;
/// Lengths of outages, in hours. Those between a twentieth and the whole of the lifetime are simulated.
const OUTAGES: [u32; 13] = [1, 2, 4, 6, 8, 12, 24, 48, 72, 168, 336, 720, 1440];
/// The load is even if no twentieth of a lifetime has more rotations than this times the mean, chance aside.
const EVEN: f64 = 1.5;

/// The certificates of a fleet, and how it goes on. Times count from the start of the forecast.
pub(super) struct Fleet {
    /// Validity periods, as if the forecast started at [`BEGIN`](perennial_simulation::BEGIN).
    pub(super) certificates: Arc<[Validity]>,
    /// The latest notAfter.
    pub(super) latest: Duration,
    pub(super) lifetime: Duration,
    pub(super) span: Duration,
    pub(super) program: ProgramName,
}

/// An outage that begins at the worst hour for its length.
pub(super) struct WorstOutage {
    pub(super) lasts: Duration,
    pub(super) from: Duration,
    /// The certificates that expire because of the outage.
    pub(super) expiries: u64,
}

/// The effect of a lifetime on the load.
pub(super) struct Lifetime {
    pub(super) lifetime: Duration,
    pub(super) rotations_a_day: f64,
    /// The time from which on the load is even; `None`: the load is not even in the time that was simulated.
    pub(super) even_after: Option<Duration>,
}

impl Fleet {
    fn scenario(&self, lifetime: Duration, span: Duration) -> Scenario {
        Scenario {
            program: program(self.program, lifetime),
            start: Start::With(self.certificates.clone()),
            ..Scenario::new(0, lifetime, span)
        }
    }

    fn progress(&self, what: &str) -> Progress {
        Progress::new(format!("simulating {what}"), u32::try_from(self.certificates.len()).unwrap_or(u32::MAX))
    }

    /// The span without an outage.
    pub(super) fn undisturbed(&self) -> Report {
        let mut progress = self.progress("the fleet");
        simulate_with_lives(&self.scenario(self.lifetime, self.span), |done| progress.show(done))
    }

    /// Outages of approver and signer of several lengths, each at its worst hour. The hour is found by the lives of the
    /// certificates without an outage, the effect by a simulation of the outage.
    pub(super) fn worst_outages(&self, undisturbed: &Report) -> Vec<WorstOutage> {
        let lengths = OUTAGES.map(|hours| HOUR * hours);
        let counts = |lasts: &Duration| *lasts >= self.lifetime / 20 && *lasts <= self.lifetime && *lasts < self.span;
        let outages = lengths.into_iter().filter(counts).map(|lasts| {
            let from = worst_hour(&undisturbed.lives, lasts, self.span - lasts);
            let mut scenario = self.scenario(self.lifetime, self.span);
            scenario.outages.push(Outage { from, lasts, kind: OutageKind::Undecided });
            let mut progress = self.progress("an outage");
            let report = simulate(&scenario, |done| progress.show(done));
            let expiries = report.totals.expiries.saturating_sub(undisturbed.totals.expiries);
            WorstOutage { lasts, from, expiries }
        });
        outages.collect()
    }

    /// Half, twice and four times the lifetime beside the lifetime itself.
    pub(super) fn lifetimes(&self) -> Vec<Lifetime> {
        let lifetimes = [self.lifetime / 2, self.lifetime, self.lifetime * 2, self.lifetime * 4];
        lifetimes.into_iter().map(|lifetime| self.lifetime(lifetime)).collect()
    }

    /// How long to simulate a lifetime: until ten lifetimes after all certificates have ended, within limits.
    fn span_for(&self, lifetime: Duration) -> Duration {
        (self.latest + lifetime * 10).min(lifetime * MOST_LIFETIMES).min(LONGEST)
    }

    fn lifetime(&self, lifetime: Duration) -> Lifetime {
        let span = self.span_for(lifetime);
        let mut progress = self.progress("another lifetime");
        let report = simulate_with_lives(&self.scenario(lifetime, span), |done| progress.show(done));
        let step = lifetime / 20;
        let mut rotations = vec![0_u32; usize::try_from(span.as_nanos() / step.as_nanos().max(1)).unwrap_or(0) + 1];
        for life in &report.lives {
            let interval = usize::try_from(life.replaced.as_nanos() / step.as_nanos().max(1)).unwrap_or(usize::MAX);
            if let Some(rotations) = rotations.get_mut(interval) {
                *rotations += 1;
            }
        }
        // The last interval may be cut off by the end of the simulation.
        rotations.pop();
        // The steady load is that of the last two lifetimes.
        let tail = &rotations[rotations.len().saturating_sub(40)..];
        let mean = f64::from(tail.iter().sum::<u32>()) / tail.len().max(1) as f64;
        // Three standard deviations of a Poisson distribution.
        let highest = EVEN * mean + 3.0 * mean.sqrt();
        let uneven = rotations.iter().rposition(|rotations| f64::from(*rotations) > highest);
        let even_after = step * u32::try_from(uneven.map_or(0, |last| last + 1)).unwrap_or(u32::MAX);
        Lifetime {
            lifetime,
            rotations_a_day: mean * DAY.as_secs_f64() / step.as_secs_f64(),
            even_after: Some(even_after).filter(|after| *after + lifetime * 2 < span),
        }
    }
}

/// The full hour, `latest` at the latest, at which an outage of this length makes the most certificates expire: those
/// that would have been replaced in time during the outage, and expire before its end.
fn worst_hour(lives: &[Life], lasts: Duration, latest: Duration) -> Duration {
    let hour = |at: Duration| usize::try_from(at.as_secs() / 3600).unwrap_or(usize::MAX);
    let last = hour(latest);
    // The difference between each hour and the one before.
    let mut changes = vec![0_i64; last + 2];
    // A certificate that expired before it was replaced, even without an outage, is not the outage's cost.
    for life in lives.iter().filter(|life| life.replaced < life.expires) {
        // The outage begins after `expires - lasts`, and not after `replaced`.
        let first = life.expires.checked_sub(lasts).map_or(0, |before| hour(before) + 1);
        let until = hour(life.replaced) + 1;
        if first < until && first <= last {
            changes[first] += 1;
            changes[until.min(last + 1)] -= 1;
        }
    }
    let expiries = changes[..=last].iter().scan(0, |expiries, change| {
        *expiries += change;
        Some(*expiries)
    });
    // The earliest of equally bad hours.
    let worst = expiries
        .enumerate()
        .fold((0, 0), |worst, (hour, expiries)| if expiries > worst.1 { (hour, expiries) } else { worst });
    HOUR * u32::try_from(worst.0).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_certificate_for_years_does_not_lengthen_forecast_of_minutes() {
        let (minute, years) = (Duration::from_secs(60), DAY * 365 * 20);
        let certificates = [minute, years].map(|lasts| {
            let begin = perennial_simulation::BEGIN;
            Validity::new(begin, begin.after(lasts)).unwrap()
        });
        let (certificates, latest) = (certificates.to_vec().into(), years);
        let fleet = Fleet { certificates, latest, lifetime: minute, span: HOUR, program: ProgramName::Default };
        assert_eq!(fleet.span_for(minute), minute * 1000);
        assert_eq!(fleet.span_for(DAY * 90), LONGEST);
        let forecast = fleet.lifetime(minute);
        assert!((1000.0..2200.0).contains(&forecast.rotations_a_day), "{}", forecast.rotations_a_day);
    }

    #[test]
    fn worst_hour_is_the_one_in_which_most_certificates_fall_due_and_expire() {
        let life = |replaced: u32, expires: u32| Life { replaced: HOUR * replaced, expires: HOUR * expires };
        let lives = [life(2, 4), life(10, 12), life(11, 13), life(20, 40)];
        assert_eq!(worst_hour(&lives, HOUR * 4, HOUR * 100), HOUR * 10, "from 10 to 14, two certificates expire");
        assert_eq!(worst_hour(&lives, HOUR * 4, HOUR * 9), HOUR, "from 1 to 5, the one that expires at 4");
        assert_eq!(worst_hour(&lives, HOUR, HOUR * 100), Duration::ZERO, "none expires");
        assert_eq!(worst_hour(&[], HOUR, HOUR), Duration::ZERO);
        let lives = [life(1, 0), life(1, 0), life(10, 12)];
        assert_eq!(
            worst_hour(&lives, HOUR * 4, HOUR * 100),
            HOUR * 9,
            "two had expired at the start, whatever happens"
        );
    }
}
