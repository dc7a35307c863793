//! `perennial run --metrics-listen`, scraped and probed over real sockets.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::support::exposition::Page;
use crate::support::{self, BOUND, Ca, Process, Signer, perennial, run_arguments, until};
use perennial::Failure;
use perennial_dev::Decision;
use perennial_tests::address;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// Sends a GET for `path` to the metrics server. Returns head and body of the answer.
fn get(address: &str, path: &str) -> (String, String) {
    let answer = support::get(address, path);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.to_owned(), body.to_owned())
}

fn scrape(address: &str) -> Page {
    let (head, body) = get(address, "/metrics");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    Page::read(&body)
}

fn state(address: &str) -> Value {
    serde_json::from_str(&get(address, "/state").1).unwrap()
}

fn start(directory: &TempDir, more: &[&str]) -> (Process, String) {
    let fixed = ["--json", "--metrics-listen", "127.0.0.1:0"];
    let mut run = support::start(directory.path(), &run_arguments(&[fixed.as_slice(), more].concat()));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    (run, address)
}

#[test]
fn rotations_are_counted_on_both_runtimes() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let _signer = Signer::start(directory.path(), &["--signing-duration", "10s"]);
        // An early window, so that a busy machine does not rotate after expiry.
        let (mut run, address) = start(&directory, &["--runtime", runtime, "--rotation-window", "30%-40%"]);
        run.event("rotated", 1);
        // A thread of its own counts the rotation.
        let page =
            until("the count", || Some(scrape(&address)).filter(|page| page.get("perennial_rotations_total") >= 1.0));
        let rotations = page.get("perennial_rotations_total");
        assert!(page.get("perennial_submissions_total") >= rotations + 1.0, "{page:?}");
        assert_eq!(page.get("perennial_rotation_age_ratio_count"), rotations);
        assert_eq!(page.get("perennial_rotation_age_seconds_count"), rotations);
        let ratio = page.get("perennial_rotation_age_ratio_sum") / rotations;
        assert!((0.3..1.0).contains(&ratio), "{ratio}");

        assert_eq!(page.0["perennial_attempt_failures_total"].samples.len(), Failure::ALL.len());
        assert_eq!(page.sum("perennial_attempt_failures_total"), 0.0);
        assert_eq!(page.get("kubelet_certificate_manager_client_expiration_renew_errors"), 0.0);
        assert_eq!(page.sum("perennial_state"), 1.0);
        assert_eq!(page.find("perennial_server_answer", &[("class", "served")]), Some(1.0));
        assert_eq!(page.get("perennial_server_healthy"), 1.0);
        assert_eq!(page.find("perennial_build_info", &[("runtime", runtime)]), Some(1.0));
        let ttl = page.get("kubelet_certificate_manager_client_ttl_seconds");
        assert!((0.0..=10.0).contains(&ttl), "{ttl}");
        let [from, rotate, to] = ["not_before", "rotation_point", "not_after"]
            .map(|what| page.get(&format!("perennial_certificate_{what}_timestamp_seconds")));
        assert!(from < rotate && rotate < to, "{from} {rotate} {to}");

        assert!(get(&address, "/healthz").0.starts_with("HTTP/1.1 200 "));
        assert!(get(&address, "/readyz").0.starts_with("HTTP/1.1 200 "));
        let state = state(&address);
        let held = &state["certificates"]["kubelet-client"];
        assert_eq!(
            (&state["ready"], &held["certificate"]["common_name"]),
            (&true.into(), &"system:node:worker".into())
        );
        run.signal(Signal::TERM);
        assert_eq!(run.end().code, Some(0));
    }
}

#[test]
fn readyz_names_missing_certificate_until_issued() {
    let directory = TempDir::new().unwrap();
    let at = address::unused().to_string();
    let signer = Signer::start_at(directory.path(), &at, &["--approve", "manual"]);
    let (mut run, address) = start(&directory, &[]);
    let csr = run.event("waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned();

    let (head, body) = get(&address, "/readyz");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(body.contains("kubelet-client: there is no certificate; waiting for approval of CSR"), "{body}");
    assert_eq!(state(&address)["certificates"]["kubelet-client"]["csr"], csr.as_str());
    let (head, body) = get(&address, "/");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nContent-Security-Policy: default-src 'none'; "));
    assert!(body.contains(&format!("\nkubectl certificate approve {csr}\n")), "{body}");
    assert!(body.contains("1 certificate (no certificate: 1)"), "{body}");
    assert!(get(&address, "/healthz").0.starts_with("HTTP/1.1 200 "));
    let page = scrape(&address);
    assert_eq!(page.get("kubelet_certificate_manager_client_ttl_seconds"), f64::INFINITY);
    assert_eq!(page.find("perennial_state", &[("state", "requesting")]), Some(1.0));
    assert_eq!(page.get("perennial_waiting_for_approval"), 1.0);
    assert_eq!(page.find("perennial_certificate_not_after_timestamp_seconds", &[]), None);
    for span in ["perennial_waiting_seconds", "perennial_due_seconds"] {
        until("growing wait", || (scrape(&address).get(span) > 0.0).then_some(()));
    }

    // A new signer at the same address has no requests, and approves the next one.
    signer.stop();
    let unreachable = [("class", "unreachable"), ("code", "")];
    until("word of its end", || scrape(&address).find("perennial_server_answer", &unreachable));
    assert_eq!(scrape(&address).get("perennial_server_healthy"), 0.0);
    assert_eq!(state(&address)["certificates"]["kubelet-client"]["server"]["class"], "unreachable");
    assert!(get(&address, "/healthz").0.starts_with("HTTP/1.1 200 "), "a restart would not help");
    let _signer = Signer::start_at(directory.path(), &at, &[]);
    until("readiness", || get(&address, "/readyz").0.starts_with("HTTP/1.1 200 ").then_some(()));
    let page =
        until("the end of the wait", || Some(scrape(&address)).filter(|page| page.get("perennial_due_seconds") == 0.0));
    let failed = page.sum("perennial_attempt_failures_total");
    assert!(failed >= 1.0, "{page:?}");
    assert_eq!(page.get("kubelet_certificate_manager_client_expiration_renew_errors"), failed);
    assert_eq!(page.get("perennial_rotations_total"), 0.0, "nothing was replaced");
    assert_eq!(page.get("perennial_waiting_for_approval"), 0.0);
    assert!(page.get("kubelet_certificate_manager_client_ttl_seconds") > 0.0);
}

#[test]
fn serving_certificate_is_not_requested_before_client_certificate_is_issued() {
    for more in [&["--rotate-server-certificates", "--node-ip", "10.0.0.7"][..], &["--rotate-server-certificates"]] {
        let directory = TempDir::new().unwrap();
        let signer = Signer::start(directory.path(), &["--approve", "manual"]);
        let (mut run, address) = start(&directory, more);
        let csr = run.event("waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned();
        let waits = |state: &Value| state["last_error"] == "waiting for the client certificate";
        let serving = || state(&address)["certificates"]["kubelet-server"].clone();
        let waiting = until("the reason", || Some(serving()).filter(waits));
        assert_eq!(waiting["next_attempt_seconds"], Value::Null, "{waiting}");
        assert!(get(&address, "/readyz").1.contains("kubelet-server: there is no certificate; waiting for the client"));
        assert_eq!(scrape(&address).sum("perennial_attempt_failures_total"), 0.0);
        assert_eq!((run.events("trouble").len(), signer.requests().len()), (0, 1));

        signer.decide(&csr, Decision::Approve);
        if more.len() > 1 {
            let of = |event: &Value| event["of"] == "kubelet-server";
            until("request", || run.events("waiting_for_approval").into_iter().find(of));
            assert_eq!(run.events("trouble"), [] as [Value; 0]);
        } else {
            // Without addresses, and without a Node object, there is nothing to request.
            until("trouble", || run.events("trouble").into_iter().next());
        }
    }
}

const CONFIG: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nserverTLSBootstrap: ";

#[test]
fn metrics_cover_both_certificates_until_one_is_disabled() {
    let directory = TempDir::new().unwrap();
    let signer = Signer::start(directory.path(), &[]);
    signer.put_trust_bundle("company", "", Ca::new().authority.certificate_pem());
    let config =
        |bootstrap: &str| fs::write(directory.path().join("config"), format!("{CONFIG}{bootstrap}\n")).unwrap();
    config("true");
    let more = ["--config", "config", "--node-ip", "10.0.0.7", "--journal", "journal", "--on-rotated", "true"];
    let (mut run, address) = start(&directory, &[&more[..], &["--trust-bundle", "name=company,path=ca.pem"]].concat());
    until("readiness", || get(&address, "/readyz").0.starts_with("HTTP/1.1 200 ").then_some(()));
    run.event("trust_bundle", 1);
    let certificates = ["kubelet-client", "kubelet-server"].map(|name| [("certificate", name)]);
    // A thread of its own counts, and takes over the rotation points.
    let page = until("the rotation points", || {
        let rests = |page: &Page| {
            let point = |one| page.find("perennial_certificate_rotation_point_timestamp_seconds", one);
            certificates.iter().all(|one| point(one).is_some())
        };
        Some(scrape(&address)).filter(rests)
    });
    for one in certificates {
        assert_eq!(page.find("perennial_submissions_total", &one), Some(1.0), "{page:?}");
        assert!(page.find("perennial_certificate_not_after_timestamp_seconds", &one).is_some());
    }
    // Served metrics and paths are those that are documented.
    let documented = include_str!("../docs/metrics.md").lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<&str> = documented.filter_map(|line| line.split('`').next()).collect();
    let served = page.0.keys().map(String::as_str);
    let paths = ["/", "/metrics", "/healthz", "/readyz", "/state"];
    // Exported only after three answers of the server, and only for the certificates of pods.
    let later = ["perennial_server_clock_offset_seconds", "kubelet_podcertificate_states"];
    assert_eq!(documented, served.chain(paths).chain(later).collect());
    assert_eq!(page.get("kubelet_server_expiration_renew_errors"), 0.0);
    assert_eq!(page.get("kubelet_certificate_manager_server_rotation_seconds_count"), 0.0);
    assert!(page.get("kubelet_certificate_manager_server_ttl_seconds") > 0.0);

    config("false");
    run.signal(Signal::HUP);
    run.event("reloaded", 1);
    let page = until("page without it", || {
        Some(scrape(&address)).filter(|page| !page.0.contains_key("kubelet_certificate_manager_server_ttl_seconds"))
    });
    assert_eq!(page.get("perennial_submissions_total"), 1.0, "what was counted before still counts");
    assert!(get(&address, "/readyz").0.starts_with("HTTP/1.1 200 "));
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
    let story = perennial(directory.path(), &["replay", "journal"]);
    assert_eq!(story.code, Some(0), "{story:?}");
    assert!(story.stdout.contains("of kubelet-client and kubelet-server"), "{story:?}");
}

#[test]
fn readyz_fails_for_expired_external_certificate() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let path = directory.path();
    let files = ["--tls-cert-file", "tls.pem", "--tls-private-key-file", "tls.pem"];
    let short = Ca::new().node(Duration::ZERO, Duration::from_secs(5));
    fs::write(path.join("tls.pem"), short.to_pem().as_bytes()).unwrap();
    let (_run, address) = start(&directory, &files);
    let end = scrape(&address).find("perennial_certificate_not_after_timestamp_seconds", &[("certificate", "tls.pem")]);
    assert_eq!(end, Some(short.chain().certificate().validity.not_after().as_secs() as f64));
    until("expiry", || get(&address, "/readyz").1.contains("tls.pem: the certificate expired").then_some(()));
    let held = &state(&address)["certificates"]["tls.pem"];
    assert_eq!((&held["ready"], &held["certificate"]["serial"]), (&false.into(), &short.chain().serial().into()));
}

#[test]
fn silent_metrics_clients_do_not_delay_other_clients() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let (_run, address) = start(&directory, &[]);
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let (head, _) = get(&address, "/healthz");
    assert!(head.contains(" 200 OK"), "{head}");
    for mut stream in silent {
        stream.set_read_timeout(Some(BOUND)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "closed without a word");
    }
}

#[test]
fn metrics_port_in_use_is_retried_while_rotation_continues() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let address = address::unused().to_string();
    let taken = TcpListener::bind(&address).unwrap();
    let more = ["--json", "--metrics-listen", &address];
    let once = perennial(directory.path(), &run_arguments(&[more.as_slice(), &["--once"]].concat()));
    assert_eq!(once.code, Some(0), "{once:?}");
    assert!(once.stderr.contains(&format!("cannot serve metrics on {address}: Address already in use")), "{once:?}");

    let mut run = support::start(directory.path(), &run_arguments(&more));
    run.event("resting", 1);
    drop(taken);
    assert_eq!(run.event("listening", 1)["address"], address.as_str());
    assert!(get(&address, "/readyz").0.contains(" 200 OK"));
    run.logged("cannot serve metrics");
    assert_eq!(run.stderr().matches("cannot serve metrics").count(), 1, "{}", run.stderr());
}

#[test]
fn probes_answer_200_and_name_unwritten_certificate() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &[]);
    let address = address::unused().to_string();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -f 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_perennial")]);
    command.args(run_arguments(&["--metrics-listen", &address]));
    let _run = Process::spawn(path, command);
    until("metrics", || TcpStream::connect(&address).ok());
    for probe in ["/readyz", "/healthz"] {
        // The certificate is served before its first write has failed.
        let (head, body) = until("the failed write", || {
            let (head, body) = get(&address, probe);
            (body.contains("\nkubelet-client: certificate in memory only since ") && body.contains("File too large"))
                .then_some((head, body))
        });
        assert!(head.contains(" 200 OK"), "{head}{body}");
    }
    let (_, body) = get(&address, "/");
    assert!(
        body.contains("not written: 1") && body.contains("<p>The certificate is in memory only since 20"),
        "{body}"
    );
    let page = scrape(&address);
    assert_eq!(page.get("perennial_unwritten"), 1.0);
    until("the time since", || (scrape(&address).get("perennial_unwritten_seconds") > 0.0).then_some(()));
    assert!(state(&address)["certificates"]["kubelet-client"]["unwritten_since"].is_string());
}

#[test]
fn request_with_unknown_host_header_is_refused() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let (_run, address) = start(&directory, &["--metrics-host", "proxy.example"]);
    let ask = |host: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET /state HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for host in [&address, "worker", "localhost:9090", "proxy.example:80"] {
        assert!(ask(host).contains(" 200 OK"), "{host}");
    }
    let other = ask("rebound.example");
    assert!(other.contains(" 421 Misdirected Request") && !other.contains("certificates"), "{other}");
}

#[test]
fn page_for_people_answers_get_and_head_only() {
    let directory = TempDir::new().unwrap();
    let _signer = Signer::start(directory.path(), &[]);
    let (mut run, address) = start(&directory, &[]);
    run.event("resting", 1);
    let ask = |method: &str, target: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let get = ask("GET", "/");
    let (head, body) = get.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nContent-Type: text/html; charset=utf-8\r\n"), "{head}");
    for expected in
        ["1 certificate (good: 1)", "<h2>kubelet-client</h2>", "Next rotation at ", "rotation window from 70 %"]
    {
        assert!(body.contains(expected), "{expected}: {body}");
    }
    assert!(!body.contains("http-equiv") && ask("GET", "/?refresh").contains("http-equiv=\"refresh\""));
    let without_length = |head: &str| head.lines().filter(|line| !line.starts_with("Content-Length")).count();
    let head_only = ask("HEAD", "/");
    assert!(head_only.ends_with("\r\n\r\n") && without_length(&head_only) == without_length(head) + 1, "{head_only}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert!(ask(method, "/").starts_with("HTTP/1.1 405 "), "{method}");
    }
    assert!(ask("GET", "/index.html").starts_with("HTTP/1.1 404 "));
}
