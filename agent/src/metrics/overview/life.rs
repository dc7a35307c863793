//! The life of a certificate as a bar: SVG with a text alternative.

use std::fmt::{self, Display, Formatter};

use perennial::{RotationMachine, UnixTime, Validity};

use super::super::html::Text;
use super::super::view::CertView;
use crate::spans::words;

/// The life of a certificate at one time, in percent of its lifetime.
pub(super) struct Life<'a> {
    name: &'a str,
    validity: Validity,
    now: UnixTime,
    /// Share of the lifetime that has passed, from 0 to 100.
    past: f64,
    /// Beginning and end of the rotation window; `None` if perennial does not rotate the certificate.
    window: Option<(f64, f64)>,
    rotation_point: Option<f64>,
}

impl<'a> Life<'a> {
    /// The life of the current certificate at the time `now`; `None` without a certificate.
    pub(super) fn of(view: &'a CertView, now: UnixTime) -> Option<Self> {
        let validity = view.certificate()?.validity;
        let lifetime = validity.lifetime().as_secs_f64();
        let share = |at: UnixTime| (at.since(validity.not_before()).as_secs_f64() / lifetime * 100.0).min(100.0);
        let machine = view.machine();
        let window = machine.map(|machine| {
            let window = machine.policy().window;
            let percent = |permille| (f64::from(permille) / 10.0).min(100.0);
            (percent(window.from()), percent(window.to()))
        });
        let rotation_point = machine.and_then(RotationMachine::rotation_point).map(share);
        Some(Self { name: &view.name, validity, now, past: share(now), window, rotation_point })
    }

    /// The text alternative of the bar.
    fn words(&self) -> String {
        let lifetime = words(self.validity.lifetime());
        let past = match self.validity.expired(self.now) {
            true => format!("its lifetime of {lifetime} has passed"),
            false => format!("{:.0} % of its lifetime of {lifetime} has passed", self.past),
        };
        let window = self.window.map(|(from, to)| format!("; rotation window from {from:.0} % to {to:.0} %"));
        let point = self.rotation_point.map(|point| format!(", rotation point at {point:.0} %"));
        format!("{}: {past}{}{}", self.name, window.unwrap_or_default(), point.unwrap_or_default())
    }
}

impl Display for Life<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // Sizes are attributes: the Content-Security-Policy of the page forbids `style` attributes.
        let title = self.words();
        write!(f, "<svg class=\"life\" role=\"img\" width=\"100%\" height=\"18\"><title>{}</title>", Text(&title))?;
        write!(f, "<rect class=\"past\" width=\"{:.2}%\" height=\"18\"/>", self.past)?;
        if let Some((from, to)) = self.window {
            write!(f, "<rect class=\"window\" x=\"{from:.2}%\" width=\"{:.2}%\" height=\"18\"/>", to - from)?;
        }
        if let Some(point) = self.rotation_point {
            write!(f, "{}", Mark("point", point))?;
        }
        write!(f, "{}</svg>", Mark("now", self.past))
    }
}

/// A vertical line across the bar: its class, and its place in percent.
struct Mark(&'static str, f64);

impl Display for Mark {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // A line at the very end would be cut in half.
        let place = self.1.clamp(0.3, 99.7);
        write!(f, "<line class=\"{}\" x1=\"{place:.2}%\" x2=\"{place:.2}%\" y2=\"18\"/>", self.0)
    }
}

/// The explanation of the bar's parts.
pub(super) const LEGEND: &str = "<p class=\"legend\">\
    <span><svg width=\"24\" height=\"12\" aria-hidden=\"true\"><rect class=\"past\" width=\"24\" height=\"12\"/></svg> \
    lifetime that has passed</span> \
    <span><svg width=\"24\" height=\"12\" aria-hidden=\"true\"><rect class=\"window\" width=\"24\" height=\"12\"/></svg> \
    rotation window</span> \
    <span><svg width=\"8\" height=\"12\" aria-hidden=\"true\"><line class=\"point\" x1=\"4\" x2=\"4\" y2=\"12\"/></svg> \
    rotation point</span> \
    <span><svg width=\"8\" height=\"12\" aria-hidden=\"true\"><line class=\"now\" x1=\"4\" x2=\"4\" y2=\"12\"/></svg> now</span>\
    </p>";
