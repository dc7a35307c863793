//! Notifications to systemd (sd_notify(3)): readiness, status, reload and watchdog, with real processes.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{self, Process, Signer, event_of, perennial, run_arguments, start_with, until};
use perennial_dev::Decision;
use rustix::process::Signal;
use tempfile::TempDir;

fn addresses(directory: &Path, text: &str) {
    support::replace(&directory.join("addresses"), text);
}

/// A notification socket in the place of systemd's, and the received text that [`Systemd::hear`] has not consumed yet.
pub(crate) struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
    received: String,
}

impl Systemd {
    pub(crate) fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(support::BOUND)).unwrap();
        Self { socket, path, received: String::new() }
    }

    pub(crate) fn start(&self, directory: &Path, arguments: &[&str]) -> Process {
        let environment = [("NOTIFY_SOCKET", self.path.to_str().unwrap()), ("WATCHDOG_USEC", "1000000")];
        start_with(directory, arguments, &environment)
    }

    /// Waits until the received text contains `what`. Drops the text up to the end of `what`.
    pub(crate) fn hear(&mut self, what: &str) {
        let end = Instant::now() + support::BOUND;
        while !self.received.contains(what) {
            assert!(Instant::now() < end, "no {what} in {}", self.received);
            let mut buffer = [0; 4096];
            let heard = self.socket.recv(&mut buffer);
            let length = heard.unwrap_or_else(|error| panic!("{error}; no {what} in {}", self.received));
            self.received += std::str::from_utf8(&buffer[..length]).unwrap();
        }
        self.received = self.received.split_once(what).unwrap().1.to_owned();
    }
}

#[test]
fn systemd_is_notified_of_readiness_reload_and_watchdog() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let mut systemd = Systemd::new(directory);
    let run = systemd.start(directory, &run_arguments(&["--json"]));
    systemd.hear("READY=1");
    systemd.hear("STATUS=kubelet-client: valid, next rotation at ");
    // The watchdog is notified repeatedly, without any event.
    (0..3).for_each(|_| systemd.hear("WATCHDOG=1"));
    run.signal(Signal::HUP);
    systemd.hear("RELOADING=1");
    systemd.hear("READY=1");
    run.signal(Signal::TERM);
    systemd.hear("STOPPING=1");
    assert_eq!(run.end().code, Some(0));
}

/// systemd does not read its socket. The kernel queues ten messages; sending an eleventh would block.
#[test]
fn unread_notification_socket_does_not_delay_rotation() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let systemd = Systemd::new(directory);
    let mut run = systemd.start(directory, &run_arguments(&["--json"]));
    run.event("issued", 1);
    // One message each half second, for the watchdog.
    let begun = Instant::now();
    until("a full socket", || (begun.elapsed() > Duration::from_secs(7)).then_some(()));
    for count in 1..=4 {
        run.signal(Signal::USR1);
        run.event("rotated", count);
    }
    run.signal(Signal::TERM);
    assert_eq!(run.end().code, Some(0));
}

#[test]
fn ready_notification_does_not_wait_for_serving_certificate() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--approve", "manual"]);
    let mut systemd = Systemd::new(directory);
    let more = ["--json", "--rotate-server-certificates", "--node-ip", "10.0.0.7"];
    let run = systemd.start(directory, &run_arguments(&more));
    let csr = event_of(&run, "kubelet-client", "waiting_for_approval", 1)["csr"].as_str().unwrap().to_owned();
    signer.decide(&csr, Decision::Approve);
    systemd.hear("READY=1");
    event_of(&run, "kubelet-server", "waiting_for_approval", 1);
    // A run that was ready before a reload is ready after it, whatever certificates wait for.
    run.signal(Signal::HUP);
    systemd.hear("RELOADING=1");
    systemd.hear("READY=1");
    assert!(!directory.join("worker/pki/kubelet-server-current.pem").exists());
}

#[test]
fn missing_ip_for_serving_certificate_is_reported_to_systemd_and_probes() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let mut systemd = Systemd::new(directory);
    addresses(directory, "worker.example\n");
    let serving = ["--json", "--rotate-server-certificates", "--node-addresses", "addresses"];
    let more = [serving.as_slice(), &["--metrics-listen", "127.0.0.1:0"]].concat();
    let mut run = systemd.start(directory, &run_arguments(&more));
    let received = event_of(&run, "kubelet-server", "trouble", 1);
    assert_eq!(received["reason"], "there is no IP address for the certificate");
    systemd.hear("kubelet-server: there is no IP address for the certificate");
    let metrics = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    let why = "kubelet-server: there is no certificate; there is no IP address for the certificate";
    let answer = support::get(&metrics, "/readyz");
    assert!(answer.contains(" 503 ") && answer.contains(why), "{answer}");
    addresses(directory, "10.0.0.7\n");
    event_of(&run, "kubelet-server", "issued", 1);
}

#[test]
fn command_of_systemd_unit_starts_new_node() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let unit = include_str!("../deploy/perennial.service").replace("\\\n", " ");
    let line = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    // systemd creates the state directory, and ignores missing paths with `-`.
    assert_eq!(line("StateDirectory="), "kubelet/pki");
    assert!(line("ReadWritePaths=").split(' ').all(|path| path.starts_with('-')), "{unit}");

    let command = line("ExecStart=")
        .replace("/var/lib/kubelet/pki", "worker/pki")
        .replace("/etc/kubernetes/kubelet.conf", "worker/kubeconfig")
        .replace("/etc/kubernetes/bootstrap-kubelet.conf", "signer/bootstrap.kubeconfig");
    let arguments = command.split_whitespace().skip(1).chain(["--once", "--node-name", "worker"]);
    let once = perennial(directory, &arguments.collect::<Vec<_>>());
    assert_eq!(once.code, Some(0), "{once:?}");
    assert!(directory.join("worker/kubeconfig").exists());
}
