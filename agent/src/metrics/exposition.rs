//! Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use perennial::Escaped;

use super::tally::Histogram;

/// A metrics page under construction: the lines of each metric's samples, by metric name.
#[derive(Default)]
pub(super) struct Exposition(BTreeMap<&'static str, String>);

/// Name and value of a label.
pub(super) type Label<'a> = (&'static str, &'a str);

impl Exposition {
    /// Adds a sample to `metric`. Without a value, adds nothing.
    pub(super) fn add(&mut self, metric: &'static str, labels: &[Label<'_>], value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.line(metric, "", labels, value);
        }
    }

    /// Adds a histogram's samples to `metric`: cumulative buckets, sum and count.
    pub(super) fn add_histogram(&mut self, metric: &'static str, labels: &[Label<'_>], bounds: &[f64], of: &Histogram) {
        let mut below = 0;
        for (place, bound) in bounds.iter().enumerate() {
            below += of.counts.get(place).unwrap_or(&0);
            self.line(metric, "_bucket", &[labels, &[("le", &number(*bound))]].concat(), below as f64);
        }
        self.line(metric, "_bucket", &[labels, &[("le", "+Inf")]].concat(), of.count as f64);
        self.line(metric, "_sum", labels, of.sum);
        self.line(metric, "_count", labels, of.count as f64);
    }

    fn line(&mut self, metric: &'static str, suffix: &str, labels: &[Label<'_>], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a string does not fail, here and below.
        let _ = writeln!(self.0.entry(metric).or_default(), "{metric}{suffix}{labels} {}", number(value));
    }

    /// Returns the page: each metric that has samples, in the order of `metrics`. A line of `metrics` consists of the
    /// name, the type and the help text of a metric.
    pub(super) fn finish(mut self, metrics: &str) -> String {
        let mut page = String::new();
        for line in metrics.lines() {
            let (name, about) = line.split_once(' ').unwrap_or((line, ""));
            let (kind, help) = about.split_once(' ').unwrap_or((about, ""));
            if let Some(samples) = self.0.remove(name) {
                let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
            }
        }
        debug_assert!(self.0.is_empty(), "no type and help text: {:?}", self.0.keys());
        page
    }
}

/// Escapes a label's value as Prometheus' text format requires, and control characters as [`Escaped`] does.
fn escape(value: &str) -> String {
    let escape = |line: &str| Escaped(line).to_string().replace('\\', r"\\").replace('"', r#"\""#);
    value.split('\n').map(escape).collect::<Vec<_>>().join(r"\n")
}

fn number(value: f64) -> String {
    // Rust formats infinity as `inf`, the text format requires `+Inf`.
    if value.is_infinite() { (if value > 0.0 { "+Inf" } else { "-Inf" }).to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped_and_infinity_is_written_as_plus_inf() {
        let mut page = Exposition::default();
        page.add("ttl_seconds", &[("certificate", "a\\b\"c\nd"), ("state", "ok")], f64::INFINITY);
        page.add("nothing", &[], None);
        let expected = r#"# HELP ttl_seconds How long.
# TYPE ttl_seconds gauge
ttl_seconds{certificate="a\\b\"c\nd",state="ok"} +Inf
"#;
        assert_eq!(page.finish("ttl_seconds gauge How long.\nnothing gauge Without samples."), expected);
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram { counts: vec![1, 2], sum: 4.25, count: 4 };
        let mut page = Exposition::default();
        page.add_histogram("age", &[("of", "x")], &[0.5, 1.0], &histogram);
        let expected = r#"# HELP age How old.
# TYPE age histogram
age_bucket{of="x",le="0.5"} 1
age_bucket{of="x",le="1"} 3
age_bucket{of="x",le="+Inf"} 4
age_sum{of="x"} 4.25
age_count{of="x"} 4
"#;
        assert_eq!(page.finish("age histogram How old."), expected);
    }
}
