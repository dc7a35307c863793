//! Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

use perennial::Escaped;

use super::tally::Histogram;

/// A page that is being written.
#[derive(Default)]
pub(super) struct Exposition(String);

/// What a metric is.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One member of a metric's family.
pub(super) struct Sample<'a> {
    pub(super) labels: Vec<(&'static str, &'a str)>,
    pub(super) value: Value<'a>,
}

pub(super) enum Value<'a> {
    Number(f64),
    Histogram(&'a Histogram),
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl<'a> From<&'a Histogram> for Value<'a> {
    fn from(histogram: &'a Histogram) -> Self {
        Self::Histogram(histogram)
    }
}

impl Exposition {
    /// A metric with all its samples. Without any, there is nothing to say of it.
    pub(super) fn family<'a>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &'static str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail, here and below.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for Sample { mut labels, value } in samples {
            match value {
                Value::Number(number) => self.line(name, "", &labels, number),
                Value::Histogram(histogram) => self.histogram(name, &mut labels, histogram),
            }
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn histogram(&mut self, name: &str, labels: &mut Vec<(&'static str, &str)>, of: &Histogram) {
        let mut below = 0;
        let plain = labels.clone();
        for (bound, count) in of.bounds.iter().zip(&of.counts) {
            below += count;
            let bound = number(*bound);
            let labels = [plain.as_slice(), &[("le", bound.as_str())]].concat();
            self.line(name, "_bucket", &labels, below as f64);
        }
        labels.push(("le", "+Inf"));
        self.line(name, "_bucket", labels, of.count as f64);
        self.line(name, "_sum", &plain, of.sum);
        self.line(name, "_count", &plain, of.count as f64);
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &[(&'static str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{suffix}{labels} {}", number(value));
    }
}

/// A label's value. The format itself escapes a line feed; what else a terminal would act upon is shown as its name.
fn escape(value: &str) -> String {
    let escape = |line: &str| Escaped(line).to_string().replace('\\', r"\\").replace('"', r#"\""#);
    value.split('\n').map(escape).collect::<Vec<_>>().join(r"\n")
}

fn number(value: f64) -> String {
    if value.is_infinite() { (if value > 0.0 { "+Inf" } else { "-Inf" }).to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_infinity_has_a_sign() {
        let mut page = Exposition::default();
        let labels = vec![("certificate", "a\\b\"c\nd"), ("state", "ok")];
        let samples = [Sample { labels, value: f64::INFINITY.into() }];
        page.family("ttl_seconds", Kind::Gauge, "How long.", samples);
        page.family("nothing", Kind::Gauge, "Nobody has any.", []);
        let expected = r#"# HELP ttl_seconds How long.
# TYPE ttl_seconds gauge
ttl_seconds{certificate="a\\b\"c\nd",state="ok"} +Inf
"#;
        assert_eq!(page.finish(), expected);
    }

    #[test]
    fn buckets_add_up() {
        let histogram = Histogram { bounds: &[0.5, 1.0], counts: vec![1, 2], sum: 4.25, count: 4 };
        let mut page = Exposition::default();
        let samples = [Sample { labels: vec![("of", "x")], value: (&histogram).into() }];
        page.family("age", Kind::Histogram, "How old.", samples);
        let expected = r#"# HELP age How old.
# TYPE age histogram
age_bucket{of="x",le="0.5"} 1
age_bucket{of="x",le="1"} 3
age_bucket{of="x",le="+Inf"} 4
age_sum{of="x"} 4.25
age_count{of="x"} 4
"#;
        assert_eq!(page.finish(), expected);
    }
}
