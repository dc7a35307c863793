//! `perennial-dev forecast`: its sources, its numbers, and errors in its input.

use std::fs;
use std::path::Path;

use crate::signer::{node, start};
use crate::support::perennial_dev;
use serde_json::Value;
use std::time::Duration;
use tempfile::TempDir;

/// The start of the forecasts whose certificates are written by tests.
const AT: [&str; 2] = ["--at", "2026-01-01T12:00:00Z"];

fn forecast(directory: &Path, arguments: &[&str]) -> Value {
    let output = perennial_dev(directory, &[&["forecast", "--json"], arguments].concat());
    assert_eq!(output.code, Some(0), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

/// Certificates, issued one after another between 2026-01-01T00:00:00Z and T01:00:00Z, valid for 24 h.
fn issued_in_an_hour(certificates: u32) -> String {
    let line = |n: u32| {
        let seconds = n * 3600 / certificates;
        let (minute, second) = (seconds / 60, seconds % 60);
        format!("2026-01-01T00:{minute:02}:{second:02}Z,2026-01-02T00:{minute:02}:{second:02}Z\n")
    };
    (0..certificates).map(line).collect()
}

#[test]
fn forecast_of_certificates_issued_together_shows_peaks_and_worst_outage() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("list.csv"), issued_in_an_hour(300)).unwrap();
    let arguments = [&["list.csv", "--span", "10d"][..], &AT].concat();
    let result = forecast(directory.path(), &arguments);
    assert_eq!(result, forecast(directory.path(), &arguments), "the same certificates have the same forecast");
    assert_eq!((&result["certificates"], &result["expired"]), (&300.into(), &0.into()));
    assert_eq!(result["lifetime_seconds"], 86_400.0);
    let busiest = &result["busiest_hour"];
    // All are due between 16:48 and 22:36 of the first day: five hours instead of nineteen.
    assert!(busiest["at"].as_str().unwrap().starts_with("2026-01-01T"), "{busiest}");
    assert!(busiest["submissions"].as_f64().unwrap() > 3.0 * result["mean_per_hour"].as_f64().unwrap(), "{result}");
    let days: u64 = result["days"].as_array().unwrap().iter().map(|day| day["submissions"].as_u64().unwrap()).sum();
    assert_eq!(days, result["submissions"].as_u64().unwrap());

    let expiries = |hours: u64| {
        let outages = result["outages"].as_array().unwrap();
        outages.iter().find(|outage| outage["lasts_seconds"] == hours * 3600).unwrap()["expiries"].as_u64().unwrap()
    };
    assert_eq!(expiries(2), 0, "no certificate is rotated as late as two hours before its expiry");
    assert!(expiries(4) > 10 && expiries(4) < expiries(6) && expiries(6) < expiries(8), "{result}");
    assert_eq!(expiries(12), 300, "all that are due in an evening expire before the next morning");

    let lifetimes = result["lifetimes"].as_array().unwrap();
    let even = lifetimes.iter().map(|lifetime| lifetime["even_after_seconds"].as_f64().unwrap()).collect::<Vec<_>>();
    assert!(even.is_sorted() && even[0] > 0.0, "shorter lifetimes flatten the load sooner: {even:?}");
}

#[test]
fn forecast_as_text_names_peak_outages_and_lifetimes() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("list.csv"), issued_in_an_hour(300)).unwrap();
    let arguments = [&["forecast", "list.csv", "--span", "3d", "--policy", "client-go"][..], &AT].concat();
    let output = perennial_dev(directory.path(), &arguments);
    assert_eq!(output.code, Some(0), "{output:?}");
    for words in [
        "300 certificates; 3d from 2026-01-01T12:00:00Z on, each new certificate for 24h, client-go",
        "The load peaks in the hour from 2026-01-01T",
        "2026-01-03T12:00:00Z",
        "signer outage of",
        "day from                submissions  busiest hour from     submissions",
        "12h                             300  2026-01-01T1",
        "with a lifetime of",
    ] {
        assert!(output.stdout.contains(words), "no {words:?} in:\n{}", output.stdout);
    }
}

/// The page shows what the command prints today.
#[test]
fn documented_forecast_has_the_numbers_that_the_command_prints() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/simulation.md")).unwrap();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("installed.csv"), issued_in_an_hour(2000)).unwrap();
    let arguments = [&["forecast", "installed.csv"][..], &AT, &["--span", "10d"]].concat();
    assert!(page.contains(&arguments.join(" ")), "the page shows the command");
    let output = perennial_dev(directory.path(), &arguments);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(page.contains(output.stdout.trim_end()), "docs/simulation.md lacks\n{}", output.stdout);
}

#[test]
fn forecast_reads_metrics_of_kubelets() {
    let directory = TempDir::new().unwrap();
    let metrics = "# HELP kubelet_certificate_manager_client_ttl_seconds Gauge of the TTL\n\
                   # TYPE kubelet_certificate_manager_client_ttl_seconds gauge\n\
                   kubelet_certificate_manager_client_ttl_seconds{node=\"a\"} 86400\n\
                   kubelet_certificate_manager_client_ttl_seconds{node=\"b\"} -60\n";
    fs::write(directory.path().join("scrape.txt"), metrics).unwrap();
    let result = forecast(directory.path(), &["scrape.txt", "--lifetime", "48h", "--span", "5d"]);
    assert_eq!((&result["certificates"], &result["expired"]), (&2.into(), &1.into()));
    assert_eq!(result["lifetime_seconds"], 172_800.0);
}

#[test]
fn forecast_reads_requests_of_a_cluster_and_directory_of_a_node() {
    let directory = TempDir::new().unwrap();
    let signer = start(directory.path());
    let handle = node(directory.path());
    handle.ready().within(Duration::from_secs(60)).unwrap();
    let of_cluster = forecast(directory.path(), &["--kubeconfig", "signer/admin.kubeconfig", "--span", "1d"]);
    assert_eq!(of_cluster["certificates"], 1);
    handle.shutdown().wait();
    let of_directory = forecast(directory.path(), &["pki", "--span", "1d"]);
    assert_eq!(of_directory["certificates"], 1);
    assert_eq!(of_cluster["lifetime_seconds"], of_directory["lifetime_seconds"]);
    fs::write(directory.path().join("one.csv"), issued_in_an_hour(1)).unwrap();
    let text = perennial_dev(directory.path(), &[&["forecast", "one.csv", "--span", "2d"][..], &AT].concat());
    assert!(text.stdout.starts_with("1 certificate; 2d from"), "{text:?}");
    signer.signal(rustix::process::Signal::TERM);
    assert_eq!(signer.end().code, Some(0));
    let output = perennial_dev(directory.path(), &["forecast", "--kubeconfig", "signer/admin.kubeconfig"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("cannot list the requests of 127.0.0.1"), "{output:?}");
}

#[test]
fn forecast_refuses_wrong_input_and_names_file_and_line() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    file("empty.csv", "notBefore,notAfter\n");
    file("wrong.csv", "2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n2026-01-01,never\n");
    file("fields.csv", "a,b,c\n");
    file("backwards.csv", "2026-01-02T00:00:00Z,2026-01-01T00:00:00Z\n");
    file("short.csv", "2026-01-01T00:00:00Z,2026-01-01T00:00:10Z\n");
    file("scrape", "kubelet_certificate_manager_client_ttl_seconds{} soon\n");
    file("scrape.good", "kubelet_certificate_manager_client_ttl_seconds 60\n");
    file("kubeconfig", "kind: Pod\n");
    for (name, files) in [("none", &[][..]), ("bad", &[("node.pem", "no certificate")])] {
        fs::create_dir(directory.path().join(name)).unwrap();
        files.iter().for_each(|(entry, text)| fs::write(directory.path().join(name).join(entry), text).unwrap());
    }
    for (arguments, words) in [
        (&[][..], &["SOURCE"][..]),
        (&["missing.csv"], &["cannot read missing.csv"]),
        (&["empty.csv"], &["empty.csv has no certificate", "expected lines NOTBEFORE,NOTAFTER"]),
        (&["none"], &["none has no certificate", "*.pem"]),
        (&["bad"], &["bad/node.pem"]),
        (&["wrong.csv"], &["wrong.csv:2:", "not a time", "expected NOTBEFORE,NOTAFTER"]),
        (&["fields.csv"], &["fields.csv:1:", "3 fields, not 2"]),
        (&["backwards.csv"], &["backwards.csv:1:", "is not before notAfter"]),
        (&["short.csv"], &["lifetimes of 1m or more", "--lifetime"]),
        (&["scrape.good"], &["scrape.good", "metrics have no notBefore", "--lifetime"]),
        (&["scrape", "--lifetime", "24h"], &["scrape:1:", "expected a number of seconds"]),
        (&["empty.csv", "--kubeconfig", "kubeconfig"], &["cannot be used with"]),
        (&["--kubeconfig", "kubeconfig"], &["kubeconfig"]),
        (&["--kubeconfig", "missing"], &["cannot read missing"]),
        (&["empty.csv", "--at", "noon"], &["--at"]),
        (&["empty.csv", "--lifetime", "5s"], &["--lifetime", "at least 1m"]),
    ] {
        let arguments = [&["forecast"], arguments].concat();
        perennial_dev(directory.path(), &arguments).expect_refusal(&arguments, words);
    }
}
