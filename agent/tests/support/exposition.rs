//! A strict parser of Prometheus' text format, version 0.0.4. Also checks the buckets of histograms, which the grammar
//! does not.

use std::collections::{BTreeMap, BTreeSet};

/// A metric with all its samples.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    /// Values by sample name and labels.
    pub(crate) samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

/// The metrics of one answer to `/metrics`, by name.
#[derive(Debug)]
pub(crate) struct Page(pub(crate) BTreeMap<String, Family>);

impl Page {
    pub(crate) fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut page = BTreeMap::<String, Family>::new();
        let mut current = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
                assert!(is_name(name, true) && !help.is_empty(), "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
                let family = Family { kind: kind.into(), ..Family::default() };
                assert!(page.insert(name.into(), family).is_none(), "{name} comes twice");
                current = name.into();
                continue;
            }
            let (name, labels, value) = sample(line);
            let family = page.get_mut(&current).unwrap_or_else(|| panic!("of no family: {line}"));
            let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("of another family: {line}"));
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(family.kind == "gauge" || (value.is_finite() && value >= 0.0), "{line}");
            assert!(family.samples.insert((name, labels), value).is_none(), "twice: {line}");
        }
        let page = Self(page);
        page.0.iter().for_each(|(name, family)| page.check(name, family));
        page
    }

    /// Checks the buckets of a histogram: values do not decrease from bound to bound, and the last bucket has the bound
    /// infinity and the value of `_count`.
    fn check(&self, name: &str, family: &Family) {
        assert!(!family.samples.is_empty(), "{name} has no samples");
        if family.kind != "histogram" {
            return;
        }
        let mut series = BTreeMap::<_, Vec<(f64, f64)>>::new();
        for ((sample, labels), value) in &family.samples {
            let mut labels = labels.clone();
            if sample.ends_with("_bucket") {
                let bound = number(&labels.remove("le").unwrap());
                series.entry(labels).or_default().push((bound, *value));
            }
        }
        for (labels, mut buckets) in series {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1), "{name}: {buckets:?}");
            let (bound, all) = *buckets.last().unwrap();
            assert!(bound.is_infinite(), "{name}: {buckets:?}");
            assert_eq!(family.samples[&(format!("{name}_count"), labels.clone())], all, "{name}");
            assert!(family.samples.contains_key(&(format!("{name}_sum"), labels)), "{name}");
        }
    }

    /// The value of the sample that has this name and at least these labels; `None` if no sample has them. Panics if
    /// several samples do.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let all = self.0.values().flat_map(|family| &family.samples);
        let fits = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| of.get(*name).is_some_and(|found| found == value))
        };
        let mut found = all.filter(|((of, with), _)| of == name && fits(with)).map(|(_, value)| *value);
        let first = found.next();
        assert!(found.next().is_none(), "several: {name} {labels:?}");
        first
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        self.find(name, &[]).unwrap_or_else(|| panic!("no {name}"))
    }

    /// The sum of all samples of this metric.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.0[name].samples.values().sum()
    }
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, true), "{line}");
    let mut labels = BTreeMap::new();
    let mut names = BTreeSet::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, value) = inside.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label, false) && names.insert(label), "{line}");
            let (value, after) = unescape(value).unwrap_or_else(|| panic!("{line}"));
            labels.insert(label.to_owned(), value);
            match after.strip_prefix(',') {
                Some(more) => inside = more,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, number(value))
}

/// Reads the value of a label up to the closing quotation mark. Returns the value without escapes, and the text after
/// the mark.
fn unescape(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            plain => value.push(plain),
        }
    }
    None
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        // Rust accepts more notations of numbers than Go.
        _ if text.starts_with(|first: char| first.is_ascii_digit() || first == '-') => text.parse().unwrap(),
        _ => panic!("not a number: {text}"),
    }
}

fn is_name(name: &str, of_metric: bool) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || (of_metric && letter == ':');
    !name.starts_with(|first: char| first.is_ascii_digit()) && !name.is_empty() && name.chars().all(fits)
}
