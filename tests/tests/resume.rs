//! A node restarts while its request is in flight, and continues with this request after the restart. The tests use
//! real sockets and real files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use perennial::{Failure, State};
use perennial_dev::{Approval, Decision, Options, faults::Plan};
use perennial_pki::Chain;
use perennial_rotation::{Directory, Handle, Record, Snapshot, clock};
use perennial_tests::loopback::{
    BOUND, LoopbackServer, NodeConfig, Runtime, issued, new_authority, node, on_both, serve, serve_at, steady,
    waits_for_approval,
};

/// A rotation that a test can end without any clean-up, as a crash does.
struct Run {
    handle: Handle,
    task: Option<smol::Task<()>>,
}

impl Run {
    fn start(node: NodeConfig) -> Self {
        let Runtime::Smol = node.runtime else { return Self { handle: node.start(), task: None } };
        let NodeConfig { policy, template, signer, store, .. } = node;
        let rotator = perennial_smol::Rotator::new().policy(policy).template(template.unwrap()).signer(signer.unwrap());
        let (handle, rotation) = perennial_smol::start(rotator.store(store.unwrap())).unwrap();
        Self { handle, task: Some(smol::spawn(rotation)) }
    }

    fn stop(self) {
        match self.task {
            // A future can be dropped at any point.
            Some(task) => drop(smol::block_on(task.cancel())),
            // A thread cannot be dropped, but at its end it does nothing unless a certificate is to be written.
            None => self.handle.shutdown().wait(),
        }
        self.handle.wait_for(|_| false).within(BOUND);
        assert!(self.handle.has_ended());
    }
}

fn record(path: &Path) -> Record {
    let store = Directory::open_existing(path, "kubelet-client").unwrap();
    Record::decode(&store.recall().unwrap().expect("a record")).unwrap()
}

fn misbehaves(server: &LoopbackServer, rule: &str) {
    let plan = Plan::parse(&format!("rules: [{rule}]")).unwrap();
    server.handle.with_api(|api, now| api.set_faults(plan, now));
}

#[test]
fn twenty_restarts_before_approval_make_one_request() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let directory = tempfile::tempdir().unwrap();
        let begin = || Run::start(node(runtime, &server.cluster).stored_in(directory.path()));
        let mut run = begin();
        let name = waits_for_approval(&run.handle);
        let key = record(directory.path()).key.unwrap();
        let restarts = 20;
        for n in 0..restarts {
            run.stop();
            run = begin();
            // Every other run is stopped at an arbitrary point of its start.
            if n % 2 == 0 {
                assert_eq!(waits_for_approval(&run.handle), name);
            } else {
                thread::yield_now();
            }
        }
        assert_eq!(waits_for_approval(&run.handle), name);
        let objects = server.csr_names();
        println!("restarts: {restarts} objects: {}", objects.len());
        assert_eq!(objects, std::slice::from_ref(&name));
        server.decide_all(Decision::Approve);
        let credential = issued(&run.handle, 1);
        assert_eq!(credential.key().public_key_der(), key.public_key_der());
        assert_eq!(server.csr_names(), [name]);
        run.stop();
    });
}

#[test]
fn restart_continues_unapproved_request_of_a_rotation() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let directory = tempfile::tempdir().unwrap();
        let begin = || Run::start(node(runtime, &server.cluster).stored_in(directory.path()));
        let run = begin();
        let first = waits_for_approval(&run.handle);
        server.decide_all(Decision::Approve);
        issued(&run.handle, 1);
        // A start after the certificate was issued submits nothing.
        run.stop();
        let run = begin();
        run.handle.wait_for(|now| matches!(now.state, State::Scheduled { .. })).within(BOUND).unwrap();
        run.handle.rotate_now();
        let second = waits_for_approval(&run.handle);
        assert_ne!(first, second);
        run.stop();

        server.decide_all(Decision::Approve);
        let run = begin();
        issued(&run.handle, 1);
        assert_eq!(server.csr_names().len(), 2);
        run.stop();
    });
}

#[test]
fn timeouts_and_retries_make_no_second_request_object() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        misbehaves(&server, "{ match: { method: POST }, times: 2, fault: { cut: beforeHead } }");
        let directory = tempfile::tempdir().unwrap();
        let mut holder = node(runtime, &server.cluster).stored_in(directory.path());
        holder.policy.request_timeout = Duration::from_secs(3);
        let run = Run::start(holder);
        let timed_out =
            |now: &Snapshot| matches!(now.state, State::BackingOff { last: Failure::TimedOut, failures: 2.., .. });
        run.handle.wait_for(timed_out).within(BOUND).expect("two timeouts");
        assert_eq!(server.csr_names().len(), 1);
        server.decide_all(Decision::Approve);
        issued(&run.handle, 1);
        assert_eq!(server.csr_names().len(), 1);
        run.stop();
    });
}

#[test]
fn restarts_after_denial_keep_backoff_then_change_key() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let directory = tempfile::tempdir().unwrap();
        let begin = |refused| {
            let mut holder = node(runtime, &server.cluster).stored_in(directory.path());
            holder.policy.refused = steady(Duration::from_millis(refused));
            Run::start(holder)
        };
        let mut run = begin(600_000);
        let first = waits_for_approval(&run.handle);
        server.decide_all(Decision::Deny);
        let denied = |now: &Snapshot| matches!(now.state, State::BackingOff { last: Failure::Denied, .. });
        run.handle.wait_for(denied).within(BOUND).unwrap();
        // The state changes before the record is saved, and a stop in between would be a crash.
        let end = Instant::now() + BOUND.unwrap();
        while record(directory.path()).key.is_some() {
            assert!(Instant::now() < end, "the refusal is not saved");
            thread::yield_now();
        }
        for _ in 0..5 {
            run.stop();
            run = begin(600_000);
            let state = run.handle.wait_for(denied).within(BOUND).unwrap().state;
            let State::BackingOff { until, .. } = state else { panic!("{state}") };
            assert!(clock::until(until) > Duration::from_secs(500), "{state}");
        }
        assert_eq!(server.csr_names(), std::slice::from_ref(&first));
        assert!(record(directory.path()).key.is_none());
        run.stop();

        // Under a policy with shorter waits, the remembered wait is shortened to its longest.
        let run = begin(100);
        assert_ne!(waits_for_approval(&run.handle), first);
        assert_eq!(server.csr_names().len(), 2);
        run.stop();
    });
}

#[test]
fn certificate_issued_and_expired_during_downtime_leads_to_new_request() {
    on_both(|runtime| {
        let options = Options {
            approval: Approval::Manual,
            signing_duration: Duration::from_secs(2),
            cleaning_interval: Duration::from_secs(3600),
            ..Options::default()
        };
        let server = serve_at("127.0.0.1:0".parse().unwrap(), new_authority(), options);
        let directory = tempfile::tempdir().unwrap();
        let begin = || {
            let mut holder = node(runtime, &server.cluster).stored_in(directory.path());
            holder.signer.as_mut().unwrap().profile.skew = Duration::ZERO;
            Run::start(holder)
        };
        let run = begin();
        let first = waits_for_approval(&run.handle);
        run.stop();
        server.decide_all(Decision::Approve);
        let expires = server.handle.with_api(|api, _| {
            let chains = api.requests().map(|csr| Chain::from_pem(&csr.status.certificate).unwrap());
            chains.map(|chain| chain.certificate().validity.not_after()).max().unwrap()
        });
        assert!(clock::now().unix.after(BOUND.unwrap()) > expires);
        while clock::now().unix <= expires {
            thread::sleep(Duration::from_millis(20));
        }

        let run = begin();
        let other = waits_for_approval(&run.handle);
        assert_ne!(other, first);
        assert_eq!(server.csr_names().len(), 2);
        run.stop();
    });
}

#[test]
fn request_object_of_same_name_for_another_signer_leads_to_new_key() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let directory = tempfile::tempdir().unwrap();
        let begin = || {
            let mut holder = node(runtime, &server.cluster).stored_in(directory.path());
            holder.policy.refused = steady(Duration::from_millis(100));
            Run::start(holder)
        };
        let run = begin();
        let first = waits_for_approval(&run.handle);
        run.stop();
        // The object under our name is for another signer.
        let objects = "{ method: GET, path: /apis/certificates.k8s.io/v1/certificatesigningrequests/* }";
        misbehaves(&server, &format!("{{ match: {objects}, times: 1, fault: {{ object: replaced }} }}"));
        let run = begin();
        let other = waits_for_approval(&run.handle);
        assert_ne!(other, first);
        assert_eq!(server.csr_names().len(), 2);
        run.stop();
    });
}

#[test]
fn unreadable_record_is_replaced_at_next_request() {
    on_both(|runtime| {
        let server = serve(Approval::Manual);
        let directory = tempfile::tempdir().unwrap();
        let begin = || Run::start(node(runtime, &server.cluster).stored_in(directory.path()));
        let kept = directory.path().join("kubelet-client-pending.json");
        for (n, damage) in ["{", "not even that"].into_iter().enumerate() {
            fs::write(&kept, damage).unwrap();
            let run = begin();
            waits_for_approval(&run.handle);
            assert_eq!(server.csr_names().len(), n + 1);
            assert!(record(directory.path()).key.is_some());
            run.stop();
        }
        // The leftover of a crash is removed, and the record is private.
        fs::write(directory.path().join("kubelet-client-pending.json.new"), "half").unwrap();
        fs::remove_file(&kept).unwrap();
        let run = begin();
        waits_for_approval(&run.handle);
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!directory.path().join("kubelet-client-pending.json.new").exists());
        run.stop();
    });
}
