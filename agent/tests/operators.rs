//! The alert rules and the dashboard in `deploy` use the metrics that the command exports, and fit the docs and their
//! tests.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::exposition::Page;
use crate::support::{Ca, Signer, get, run_arguments, start, until};
use serde_json::Value;
use tempfile::TempDir;

const RUNBOOK: &str = include_str!("../docs/alerts.md");
/// Labels that Prometheus adds to each sample of a target.
const OF_TARGET: [&str; 2] = ["instance", "job"];
/// Words of PromQL that are followed by label names in parentheses.
const GROUPINGS: [&str; 5] = ["by", "without", "on", "ignoring", "group_left"];
/// Other words of PromQL that the queries use.
const WORDS: [&str; 18] = [
    "abs",
    "absent",
    "and",
    "avg_over_time",
    "bottomk",
    "count",
    "increase",
    "max",
    "min",
    "or",
    "quantile",
    "rate",
    "sum",
    "time",
    "topk",
    "unless",
    "vector",
    "changes",
];

fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(include_str!("../deploy/alerts.yaml")).unwrap();
    file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(include_str!("../deploy/dashboard.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The exported metrics by sample name: the type, and the names of the labels.
struct Exported(BTreeMap<String, (String, BTreeSet<String>)>);

impl Exported {
    /// Reads the metrics of a process that has two certificates, a trust bundle, a journal and a hook, once it exports every metric.
    fn read() -> Self {
        let directory = TempDir::new().unwrap();
        let signer = Signer::start(directory.path(), &["--signing-duration", "20s"]);
        signer.put_trust_bundle("company", "", Ca::new().authority.certificate_pem());
        let arguments = [
            "--json",
            "--metrics-listen=127.0.0.1:0",
            "--rotate-server-certificates",
            "--node-ip=10.0.0.7",
            "--journal=journal",
            "--on-rotated=true",
            "--rotation-window=10%-20%",
            "--trust-bundle=name=company,path=ca.pem",
        ];
        let mut run = start(directory.path(), &run_arguments(&arguments));
        let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
        run.event("trust_bundle", 1);
        // This metric is exported only after three answers of the server.
        until("clock offset", || {
            get(&address, "/metrics").contains("\nperennial_server_clock_offset_seconds").then_some(())
        });
        let answer = get(&address, "/metrics");
        let mut exported = BTreeMap::new();
        for family in Page::read(answer.split_once("\r\n\r\n").unwrap().1).0.into_values() {
            for (sample, labels) in family.samples.into_keys() {
                exported
                    .entry(sample)
                    .or_insert_with(|| (family.kind.clone(), BTreeSet::new()))
                    .1
                    .extend(labels.into_keys());
            }
        }
        Self(exported)
    }

    /// Checks that a query names exported metrics, with labels that they have, and that `increase` and `rate` are taken
    /// of counters, and of all of them. Returns all labels of the metrics.
    fn check(&self, query: &str) -> BTreeSet<String> {
        let (selections, groupings) = selections(query);
        assert!(!selections.is_empty(), "no metric: {query}");
        let mut known: BTreeSet<String> = OF_TARGET.map(str::to_owned).into();
        for Selection { metric, labels, counts } in selections {
            if metric == "up" {
                continue;
            }
            let (kind, has) = self.0.get(&metric).unwrap_or_else(|| panic!("{metric} is not exported: {query}"));
            assert_eq!(kind != "gauge", counts, "{metric} is a {kind}: {query}");
            let missing = labels.iter().find(|label| !has.contains(*label) && !OF_TARGET.contains(&label.as_str()));
            assert_eq!(missing, None, "{metric} lacks the label: {query}");
            known.extend(has.iter().cloned());
        }
        let unknown = groupings.iter().find(|label| !known.contains(*label));
        assert_eq!(unknown, None, "no metric has the label: {query}");
        known
    }
}

/// A metric in a query, with the labels that the query selects by.
#[derive(Debug, PartialEq)]
struct Selection {
    metric: String,
    labels: Vec<String>,
    /// True if the query takes `increase` or `rate` of the metric.
    counts: bool,
}

/// Finds the metrics in a query, and the labels in `by (…)` and the like.
fn selections(query: &str) -> (Vec<Selection>, Vec<String>) {
    let (mut found, mut groupings) = (Vec::<Selection>::new(), Vec::new());
    let (mut in_braces, mut in_grouping, mut counts) = (false, false, false);
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len()).max(first.len_utf8());
        let (token, after) = rest.split_at(length);
        rest = after;
        match first {
            '"' => rest = rest.split_once('"').unwrap().1,
            '[' => rest = rest.split_once(']').unwrap().1,
            '{' => in_braces = true,
            '}' => in_braces = false,
            ')' => in_grouping = false,
            _ if !first.is_ascii_alphabetic() => {}
            _ if in_braces => found.last_mut().unwrap().labels.push(token.to_owned()),
            _ if in_grouping => groupings.push(token.to_owned()),
            _ if GROUPINGS.contains(&token) => in_grouping = true,
            _ if WORDS.contains(&token) => counts = token == "increase" || token == "rate",
            _ => {
                found.push(Selection { metric: token.to_owned(), labels: Vec::new(), counts });
                counts = false;
            }
        }
    }
    (found, groupings)
}

/// The labels that a template names, such as `certificate` in `{{certificate}}` or `{{ $labels.certificate }}`.
fn labels_of(template: &str) -> Vec<&str> {
    let inside = template.split("{{").skip(1).map(|rest| rest.split_once("}}").unwrap().0);
    let names = inside.flat_map(|inside| inside.split_whitespace());
    names
        .filter_map(|word| word.strip_prefix("$labels.").or_else(|| Some(word).filter(|_| !template.contains('$'))))
        .collect()
}

#[test]
fn alert_rules_and_dashboard_use_exported_metrics() {
    let exported = Exported::read();
    for rule in rules() {
        let known = exported.check(text(&rule["expr"]));
        for annotation in rule["annotations"].as_object().unwrap().values() {
            let unknown = labels_of(text(annotation)).into_iter().find(|label| !known.contains(*label));
            assert_eq!(unknown, None, "{rule}");
        }
    }
    let dashboard = dashboard();
    let (mut ids, mut queries) = (BTreeSet::new(), 0);
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id comes twice: {panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = text(&target["expr"]);
            let known = exported.check(query);
            // The dashboard's variables select nodes and certificates, so that it serves any number of both.
            assert!(query.contains("instance=~\"$instance\""), "{query}");
            assert_eq!(query.contains("certificate=~"), known.contains("certificate"), "{query}");
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{query}");
            let unknown = labels_of(text(&target["legendFormat"])).into_iter().find(|label| !known.contains(*label));
            assert_eq!(unknown, None, "{target}");
            queries += 1;
        }
    }
    assert!(queries > 20, "{queries}");
    for variable in dashboard["templating"]["list"].as_array().unwrap().iter().skip(1) {
        let query = text(&variable["definition"]).strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
        let (query, label) = query.rsplit_once(", ").unwrap();
        assert!(exported.check(query).contains(label), "{variable}");
        assert_eq!((&variable["allValue"], &variable["name"]), (&".*".into(), &label.into()));
    }
}

#[test]
fn each_alert_has_a_runbook_and_tests_for_both_outcomes() {
    let tests: Value = serde_saphyr::from_str(include_str!("../deploy/alerts_test.yaml")).unwrap();
    let tests = tests["tests"].as_array().unwrap().iter();
    let tests: Vec<&Value> = tests.flat_map(|test| test["alert_rule_test"].as_array().unwrap()).collect();
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = text(&rule["alert"]);
        let annotation = |key: &str| text(&rule["annotations"][key]).to_owned();
        assert_eq!(annotation("runbook"), format!("agent/docs/alerts.md#{}", name.to_lowercase()));
        assert!(annotation("summary").len() > 20 && annotation("description").len() > 40, "{rule}");
        let severity = text(&rule["labels"]["severity"]);
        assert!(["critical", "warning"].contains(&severity), "{rule}");
        let of_rule = |test: &&&Value| test["alertname"] == name;
        let fires = |test: &Value| {
            let alerts = test["exp_alerts"].as_array().unwrap();
            alerts.iter().any(|alert| alert["exp_labels"]["severity"] == severity)
        };
        assert!(tests.iter().filter(of_rule).any(|test| fires(test)), "{name} ({severity}) never fires in a test");
        assert!(tests.iter().filter(of_rule).any(|test| !fires(test)), "{name} ({severity}) is never silent in a test");
        names.insert(name.to_owned());
    }
    let sections = RUNBOOK.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    assert_eq!(names, sections);
}

#[test]
fn queries_are_split_into_metrics_and_labels() {
    let query =
        r#"sum by (reason) (increase(a_total{instance=~"$x", certificate="by {b}"}[1h])) and ignoring (le) c > 3600"#;
    let (found, groupings) = selections(query);
    let selection = |metric: &str, labels: &[&str], counts| {
        let labels = labels.iter().copied().map(str::to_owned).collect();
        Selection { metric: metric.into(), labels, counts }
    };
    assert_eq!(found, [selection("a_total", &["instance", "certificate"], true), selection("c", &[], false)]);
    assert_eq!(groupings, ["reason", "le"]);
    assert_eq!(labels_of("{{ $labels.certificate }} on {{ $labels.instance }}"), ["certificate", "instance"]);
    assert_eq!(labels_of("{{class}} {{code}}"), ["class", "code"]);
}
