//! Cases that upstream has no tests for: loops and waits, the outcomes of a request, and client-go's server health
//! after answers with an error status.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Action, Event, Failure, Instant, Key, Now, Policy, RequestId, RotationMachine, Setup, Template};
use perennial_dev::{Approval, Decision, Method, Options};
use perennial_kubernetes::client::{client_go_healthy, csr_name};
use perennial_rotation::SignError;
use perennial_tests::mint;

use super::manager::error;
use super::store::Pki;
use super::{Row, different, same};
use perennial_tests::simulation::{
    DAY, HOUR, KUBELET_CLIENT, MINUTE, Node, SECOND, START, Server, admin, desired_csr, json, key,
};

const MANAGER: &str = "certificate_manager.go";
const CSR: &str = "csr.go";
const STORE: &str = "certificate_store.go";
const NOT_A_FAILURE: &str = "a change of mind is no failure: client-go counts one, and pays its backoff";

pub(crate) const ROWS: &[Row] = &[
    same(MANAGER, "backoff: 2, 4, 8, 16 s, each up to 10 % more", "the same waits under Policy::kubelet()", || {
        for waits in (0..50).map(|seed| kubelet_waits(seed, Duration::ZERO)) {
            for (wait, base) in waits.iter().zip([2, 4, 8, 16]) {
                assert!((base * SECOND..=base * SECOND * 11 / 10).contains(wait), "{waits:?}");
            }
        }
    }),
    same(MANAGER, "PollInfinite: then every 32 s, without jitter", "the same waits under Policy::kubelet()", || {
        assert_eq!(kubelet_waits(1, Duration::ZERO)[4..], [32 * SECOND; 6]);
    }),
    same(
        MANAGER,
        "PollInfinite: on a grid, ticks during an attempt are lost",
        "the same waits under Policy::kubelet()",
        || {
            let begins = |took| kubelet_waits(1, took)[5..].to_vec();
            assert_eq!(begins(10 * SECOND), [32 * SECOND; 5]);
            assert_eq!(begins(33 * SECOND), [64 * SECOND; 5]);
            assert_eq!(begins(15 * MINUTE), [928 * SECOND; 5]);
        },
    ),
    different(
        MANAGER,
        "template changes during a request: the first time",
        "a new request at once",
        NOT_A_FAILURE,
        || {
            assert_eq!(superseded(1), (1, None));
        },
    ),
    different(
        MANAGER,
        "template changes during a request: the second time",
        "a new request at once",
        "client-go's watcher still blocks on the first change, so the request waits for its 15 min timeout",
        || assert_eq!(superseded(2), (2, None)),
    ),
    different(
        MANAGER,
        "template changes during a request: the tenth time",
        "a new request when the budget allows it, within two refills",
        "no event may cost the signer more submissions than the policy allows",
        || {
            let (at_once, later) = superseded(10);
            assert_eq!(at_once, 8, "one of ten tokens went to the first request, and one is kept");
            assert!(later.is_some_and(|later| later <= 2 * Policy::default().budget.refill()), "{later:?}");
        },
    ),
    same(CSR, "Denied", "a failure of its own kind, with the approver's message", || {
        let error = decided(Decision::Deny);
        assert_eq!(error.failure, Failure::Denied);
        assert!(error.message.contains("not today"), "{error}");
    }),
    same(CSR, "Failed", "a failure of its own kind", || {
        assert_eq!(faulty("object: failed").failure, Failure::SignerFailed);
    }),
    same(CSR, "deleted", "a failure of its own kind", || {
        let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
        let desired_csr = desired_csr(&key(), KUBELET_CLIENT);
        let path = format!("/{}", desired_csr.name);
        let delete = |server: &mut Server| {
            assert_eq!(server.send(&admin(), Method::DELETE, &path, serde_json::json!({})), 200);
        };
        let error = server.submit(&desired_csr, MINUTE, delete).unwrap().unwrap_err();
        assert_eq!(error.failure, Failure::Deleted);
    }),
    same(CSR, "changed UIDs", "treated as deleted", || {
        assert_eq!(faulty("object: uidChanged").failure, Failure::Deleted);
    }),
    same(CSR, "a certificate without Approved", "the certificate is ignored until the request is approved", || {
        let key = key();
        let desired_csr = desired_csr(&key, KUBELET_CLIENT);
        let mut elsewhere = Server::new(Options::default());
        let issued = elsewhere.submit(&desired_csr, MINUTE, |_| {}).unwrap().unwrap();
        let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
        let sign = |server: &mut Server| {
            let mut object = server.object(&desired_csr.name).unwrap();
            object.status.certificate = issued.chain.pem().into();
            let path = format!("/{}/status", desired_csr.name);
            assert_eq!(server.send(&admin(), Method::PUT, &path, json(&object)), 200);
        };
        assert!(server.submit(&desired_csr, MINUTE, sign).is_none());
        assert_eq!(server.approve(&desired_csr.name), 200);
        assert!(server.submit(&desired_csr, MINUTE, |_| {}).unwrap().is_ok());
    }),
    same(CSR, "Approved without a certificate", "the request waits for the certificate", || {
        let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
        server.faults("{ fault: { object: neverIssued } }");
        assert!(server.submit(&desired_csr(&key(), KUBELET_CLIENT), 15 * MINUTE, |_| {}).is_none());
    }),
    different(
        CSR,
        "AlreadyExists, denied",
        "denied, as the existing object is; the next attempt has a new key, and so another name",
        "client-go's bootstrap waits, fails, exits and finds the denied object again, until a cleaner removes it",
        || {
            let mut node = Node::new(Server::new(Options { approval: Approval::Manual, ..Options::default() }), None);
            node.run(MINUTE);
            let now = node.server.now().unix;
            let first = node.server.api.requests().next().unwrap().metadata.name.clone();
            node.server.api.decide(&first, Decision::Deny, "", now).unwrap();
            node.run(6 * MINUTE);
            assert!(node.submissions == 2 && node.server.api.requests().count() == 2);
        },
    ),
    different(
        CSR,
        "no answer in 15 min",
        "submitted again with the same key, so the object stays the same",
        "client-go makes a new key and object each time, and does not use an object that is approved later",
        || {
            let mut node = Node::new(Server::new(Options { approval: Approval::Manual, ..Options::default() }), None);
            node.run(HOUR);
            assert!(node.submissions >= 3 && node.server.api.requests().count() == 1);
        },
    ),
    same(CSR, "AlreadyExists, waiting", "the request continues with the existing object of its name", || {
        let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
        let desired_csr = desired_csr(&key(), KUBELET_CLIENT);
        assert!(server.submit(&desired_csr, MINUTE, |_| {}).is_none());
        let approve = |server: &mut Server| {
            let now = server.now().unix;
            server.api.decide(&desired_csr.name, Decision::Approve, "", now).unwrap();
        };
        assert!(server.submit(&desired_csr, MINUTE, approve).unwrap().is_ok());
        assert_eq!(server.api.requests().count(), 1);
    }),
    same(
        "bootstrap.go",
        "digestedName",
        "equal names, from key, common name, organisations and usages, in that order",
        || {
            let name = csr_name(b"key", "system:node:a", ["system:nodes"], &["digital signature", "client auth"]);
            // Computed with OpenSSL's SHA-512/256.
            assert_eq!(name, "node-csr-LW0LVgSwdautjTGAdsQsOa5R7qh0S_OcteJFLCr3UlQ");
        },
    ),
    same(MANAGER, "server health: 429", "not healthy; throttled", || unhealthy(429, Failure::Throttled)),
    same(MANAGER, "server health: 500", "not healthy; unreachable", || unhealthy(500, Failure::Unreachable)),
    same(MANAGER, "server health: 503", "not healthy; unreachable", || unhealthy(503, Failure::Unreachable)),
    same(MANAGER, "server health: 422", "not healthy; rejected", || unhealthy(422, Failure::Rejected)),
    different(
        MANAGER,
        "server health: 409",
        "health does not change: the object of that name is read, and read only once if the server has none",
        "a conflict of a generated name is a failure; with a derived name a restart continues by it",
        || {
            let error = error("answer: { status: 409 }");
            assert_eq!((error.failure, error.health.map(client_go_healthy)), (Failure::Deleted, Some(true)));
        },
    ),
    same(STORE, "recover()", "a pair whose update was interrupted before its last rename is found", || {
        let pki = Pki::new();
        fs::write(pki.path("kubelet-server-pair.pem"), pki.credential.to_pem().as_bytes()).unwrap();
        symlink(pki.path("kubelet-server-pair.pem"), pki.path("kubelet-server-updated.pem")).unwrap();
        pki.loads_the_credential();
        let new = pki.another();
        pki.directory().write(&new, START).unwrap();
        assert_eq!(pki.loaded().chain(), new.chain());
    }),
    different(
        STORE,
        "permissions",
        "files 0600, and a directory of our own 0700",
        "client-go creates the directory with mode 0755",
        || {
            let pki = Pki::new();
            let path = pki.path("pki");
            let directory = perennial_rotation::Directory::open(&path, "kubelet-server").unwrap();
            directory.write(&pki.credential, START).unwrap();
            let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&directory.current())), (0o700, 0o600));
        },
    ),
    different(
        STORE,
        "two updates in one second",
        "two files; the first is untouched",
        "client-go names files by the second, and truncates the file in use",
        || {
            let pki = Pki::new();
            pki.directory().write(&pki.credential, START).unwrap();
            let (first, before) = (pki.target(), fs::read(pki.target()).unwrap());
            pki.directory().write(&pki.another(), START).unwrap();
            assert!(pki.target() != first && fs::read(first).unwrap() == before);
        },
    ),
];

/// The ten times between the beginnings of eleven successive attempts under the kubelet policy, if each attempt fails
/// after `took`.
fn kubelet_waits(seed: u64, took: Duration) -> Vec<Duration> {
    let setup = Setup {
        policy: Arc::new(Policy { request_timeout: DAY, ..Policy::kubelet() }),
        seed,
        template: Some(Arc::new(Template::node("worker-1"))),
        ..Setup::default()
    };
    let mut holder = Holder::new(setup);
    let begins: Vec<Instant> = (0..11)
        .map(|_| {
            let (at, id) = holder.ask();
            holder.pass(took);
            holder.handle(Event::CsrFailed { id, failure: Failure::Unreachable, retry_after: None });
            at
        })
        .collect();
    begins.windows(2).map(|pair| pair[1].since(pair[0])).collect()
}

/// Changes the template `changes` times, once a second. Returns the number of changes for which the machine submitted a
/// request at once, and the delay of the request for the last change; the delay is `None` if that request, too, was
/// submitted at once.
fn superseded(changes: usize) -> (usize, Option<Duration>) {
    let template = |n: usize| Some(Arc::new(Template::node("worker-1").with_dns_names([format!("n{n}.example")])));
    let certificate = Arc::new(mint::certificate(&Template::node("worker-1"), 1, mint::EPOCH, DAY));
    let setup = Setup { template: template(0), certificate: Some(certificate), ..Setup::default() };
    let mut holder = Holder::new(setup);
    holder.ask();
    let (mut at_once, mut last) = (0, false);
    for n in 1..=changes {
        holder.pass(SECOND);
        let actions = holder.handle(Event::TemplateChanged(template(n)));
        last = actions.iter().any(|action| matches!(action, Action::SubmitCsr { key: Key::New, .. }));
        assert_eq!(last, actions.iter().any(|action| matches!(action, Action::CancelRequest { .. })));
        assert_eq!(holder.machine.last_failure(), None);
        at_once += usize::from(last);
    }
    let now = holder.now.instant;
    (at_once, (!last).then(|| holder.ask().0.since(now)))
}

/// A machine and its clocks, which advance only by calls of `pass`.
struct Holder {
    machine: RotationMachine,
    now: Now,
}

impl Holder {
    fn new(setup: Setup) -> Self {
        let now = Now { instant: Instant::from_millis(0), unix: mint::EPOCH };
        Self { machine: RotationMachine::new(setup, now), now }
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(event, self.now).collect()
    }

    fn pass(&mut self, span: Duration) {
        self.now = Now { instant: self.now.instant.after(span), unix: self.now.unix.after(span) };
    }

    /// Handles Ticks until the machine submits a request. Returns the time of the submission and the id of the request.
    fn ask(&mut self) -> (Instant, RequestId) {
        for _ in 0..1000 {
            let deadline = self.machine.deadline().expect("a Tick is wanted");
            self.pass(deadline.since(self.now.instant));
            for action in self.handle(Event::Tick) {
                if let Action::SubmitCsr { id, .. } = action {
                    return (self.now.instant, id);
                }
            }
        }
        panic!("nothing is asked: {}", self.machine);
    }
}

fn unhealthy(status: u16, failure: Failure) {
    let error = error(&format!("answer: {{ status: {status} }}"));
    assert_eq!((error.failure, error.health.map(client_go_healthy)), (failure, Some(false)));
}

fn decided(decision: Decision) -> SignError {
    let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
    let desired_csr = desired_csr(&key(), KUBELET_CLIENT);
    let decide = |server: &mut Server| {
        let now = server.now().unix;
        server.api.decide(&desired_csr.name, decision, "not today", now).unwrap();
    };
    server.submit(&desired_csr, MINUTE, decide).unwrap().unwrap_err()
}

fn faulty(fault: &str) -> SignError {
    let mut server = Server::new(Options { approval: Approval::Manual, ..Options::default() });
    server.faults(&format!("{{ fault: {{ {fault} }} }}"));
    server.submit(&desired_csr(&key(), KUBELET_CLIENT), HOUR, |_| {}).unwrap().unwrap_err()
}
