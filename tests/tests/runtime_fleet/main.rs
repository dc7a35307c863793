//! Fleets on both runtimes: members are added, changed and removed, panic, depend on each other and end, without
//! disturbing other members.

mod panics;
mod stores;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use perennial::{State, Template};
use perennial_dev::{Approval, Decision};
use perennial_kubernetes::CsrSigner;
use perennial_pki::{Chain, Credential, Issuer, Terms, Usage, read_request};
use perennial_rotation::{
    Authentication, Fleet, Handle, Limits, News, Rotator, SignRequest, SignWith, StartError, clock,
};
use perennial_tests::loopback::{
    BOUND, LoopbackServer, Runtime, fleet, issued, node, policy, serve, waits_for_approval,
};

/// Runs a scenario with a fleet on threads, and again with one on smol.
fn on_both(scenario: impl Fn(Fleet)) {
    on_both_limited(64, scenario);
}

fn on_both_limited(in_flight: u32, scenario: impl Fn(Fleet)) {
    let limits = Limits { in_flight: NonZeroU32::new(in_flight).unwrap(), ..Limits::default() };
    scenario(fleet(Runtime::Std, limits));
    scenario(fleet(Runtime::Smol, limits));
}

/// A member that requests the certificate of this node from the server.
fn member(server: &LoopbackServer, name: &str) -> Rotator {
    let signer: CsrSigner = node(Runtime::Std, &server.cluster).signer.unwrap();
    Rotator::new().name(name).policy(policy()).template(Template::node(name)).signer(signer)
}

fn add(fleet: &Fleet, server: &LoopbackServer, name: &str) -> Handle {
    fleet.add(member(server, name)).unwrap()
}

/// A CA in memory that counts its requests in flight, and issues after a while.
struct Ca {
    issuer: Issuer,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    order: Mutex<Vec<String>>,
}

impl Ca {
    fn new() -> Arc<Self> {
        let now = clock::now().unix;
        let key = Arc::new(perennial_pki::KeyPair::generate(perennial_pki::KeyAlgorithm::EcdsaP256).unwrap());
        let validity = perennial::Validity::new(now, now.after(Duration::from_secs(86_400))).unwrap();
        let chain = perennial_pki::self_signed("CA", &key, &[1], validity).unwrap();
        let issuer = Issuer::new(Credential::new(chain, key).unwrap()).unwrap();
        Arc::new(Self { issuer, in_flight: AtomicUsize::new(0), most: AtomicUsize::new(0), order: Mutex::default() })
    }

    fn sign(&self, request: &SignRequest) -> Chain {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.order.lock().unwrap().push(request.template.common_name().to_owned());
        thread::sleep(Duration::from_millis(20));
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let facts = read_request(request.csr.pem.as_bytes()).unwrap();
        let now = clock::now().unix;
        let validity =
            perennial::Validity::new(now.before(Duration::from_secs(60)), now.after(Duration::from_secs(3600)));
        let serial = &facts.public_key_der[40..56];
        let terms =
            Terms { serial, validity: validity.unwrap(), key_usages: &[], extended_key_usages: &[Usage::ClientAuth] };
        self.issuer.issue(&facts, &terms).unwrap()
    }

    fn signer(self: &Arc<Self>) -> SignWith {
        let ca = self.clone();
        SignWith::blocking("example.com/ca", move |request, _| Ok(ca.sign(&request)))
    }

    fn member(self: &Arc<Self>, name: &str) -> Rotator {
        Rotator::new().name(name).policy(policy()).template(Template::new(name)).signer(self.signer())
    }
}

#[test]
fn fleet_never_exceeds_its_cap_and_serves_every_member() {
    on_both_limited(3, |fleet| {
        let ca = Ca::new();
        let handles: Vec<_> = (0..40).map(|n| fleet.add(ca.member(&format!("member-{n}"))).unwrap()).collect();
        handles.iter().for_each(|handle| drop(issued(handle, 1)));
        handles.iter().for_each(Handle::rotate_now);
        handles.iter().for_each(|handle| drop(issued(handle, 2)));
        assert_eq!(ca.most.load(Ordering::SeqCst), 3);
        assert_eq!(ca.order.lock().unwrap().len(), 80);
        fleet.shutdown().wait();
        assert!(handles.iter().all(Handle::has_ended) && fleet.has_ended());
    });
}

#[test]
fn one_stream_has_the_news_of_all_members_with_their_names() {
    on_both(|fleet| {
        let (ca, mut notices) = (Ca::new(), fleet.notices(usize::MAX));
        let handles = ["a", "b", "c"].map(|name| fleet.add(ca.member(name)).unwrap());
        handles.iter().for_each(|handle| drop(issued(handle, 1)));
        fleet.shutdown().wait();
        let (mut issued, mut ended) = (Vec::new(), Vec::new());
        while let Some(news) = notices.recv().within(BOUND) {
            match news.notice.news {
                News::Issued { .. } => issued.push(news.member.name().to_owned()),
                News::Ended => ended.push(news.member.name().to_owned()),
                _ => {}
            }
        }
        issued.sort();
        ended.sort();
        assert_eq!(
            (issued, ended),
            (vec!["a".into(), "b".into(), "c".into()], vec!["a".into(), "b".into(), "c".into()])
        );
    });
}

#[test]
fn full_stream_reports_missed_notices_of_each_member() {
    on_both(|fleet| {
        let (ca, mut notices) = (Ca::new(), fleet.notices(1));
        let handles = ["a", "b"].map(|name| fleet.add(ca.member(name)).unwrap());
        handles.iter().for_each(|handle| drop(issued(handle, 1)));
        fleet.shutdown().wait();
        let seen: Vec<_> = std::iter::from_fn(|| notices.try_recv()).collect();
        for name in ["a", "b"] {
            let of_member: Vec<_> = seen.iter().filter(|news| news.member.name() == name).collect();
            let missed = of_member.iter().filter(|news| matches!(news.notice.news, News::Missed { .. })).count();
            assert_eq!(missed, 1, "{name}: one gap");
            let last = &of_member.last().unwrap().notice;
            assert!(matches!(last.news, News::Ended) && last.snapshot.issued == 1, "{last:?}");
        }
        assert!(seen.len() <= 5, "one notice, and a gap and an end for each member");
    });
}

#[test]
fn members_join_and_leave_during_a_burst() {
    on_both_limited(2, |fleet| {
        let ca = Ca::new();
        let first: Vec<_> = (0..20).map(|n| fleet.add(ca.member(&format!("first-{n}"))).unwrap()).collect();
        // Some of these have a request in flight, most wait for their turn.
        first.iter().step_by(2).for_each(|handle| drop(handle.shutdown()));
        let second: Vec<_> = (0..10).map(|n| fleet.add(ca.member(&format!("second-{n}"))).unwrap()).collect();
        first.iter().step_by(2).for_each(|handle| handle.shutdown().wait());
        let stay: Vec<_> = first.iter().skip(1).step_by(2).chain(&second).collect();
        stay.iter().for_each(|handle| drop(issued(handle, 1)));
        assert!(stay.iter().all(|handle| !handle.has_ended()));
        assert!(ca.most.load(Ordering::SeqCst) <= 4, "two in flight, and two whose members have gone");
        fleet.shutdown().wait();
    });
}

#[test]
fn signer_that_blocks_takes_no_thread_from_a_pool_of_the_program() {
    on_both(|fleet| {
        let (ca, names) = (Ca::new(), Arc::new(Mutex::new(Vec::new())));
        let (noted, signing) = (names.clone(), ca.clone());
        let signer = SignWith::blocking("example.com/ca", move |request, _| {
            noted.lock().unwrap().push(thread::current().name().map(str::to_owned));
            Ok(signing.sign(&request))
        });
        issued(&fleet.add(ca.member("a").signer(signer)).unwrap(), 1);
        let names = names.lock().unwrap();
        assert!(names.iter().all(|name| name.as_ref().is_some_and(|name| name.starts_with("perennial-"))), "{names:?}");
        assert_eq!(names.len(), 1);
        fleet.shutdown().wait();
    });
}

#[test]
fn shutdown_of_a_fleet_drops_requests_in_flight() {
    on_both(|fleet| {
        let server = serve(Approval::Manual);
        let handles = ["worker-1", "worker-2"].map(|name| add(&fleet, &server, name));
        handles.iter().for_each(|handle| drop(waits_for_approval(handle)));
        fleet.shutdown().within(Duration::from_secs(10));
        assert!(fleet.has_ended() && handles.iter().all(Handle::has_ended));
        assert!(matches!(fleet.add(member(&server, "late")), Err(StartError::FleetEnded)));
    });
}

#[test]
fn members_authenticate_with_the_certificate_of_another_member() {
    on_both_limited(2, |fleet| {
        let server = serve(Approval::Manual);
        let node = add(&fleet, &server, "worker-1");
        let serving = |n: usize| {
            let signer = CsrSigner {
                signer_name: "example.com/mesh".into(),
                authentication: Authentication::other(node.clone()),
                ..perennial_tests::loopback::node(Runtime::Std, &server.cluster).signer.unwrap()
            };
            let rotator = Rotator::new().policy(policy()).template(Template::new(format!("service-{n}")));
            fleet.add(rotator.signer(signer)).unwrap()
        };
        let dependents: Vec<_> = (0..5).map(serving).collect();
        waits_for_approval(&node);
        for dependent in &dependents {
            dependent.wait_for(|now| matches!(now.state, State::NoIdentity { .. })).within(BOUND).unwrap();
        }
        server.decide_all(Decision::Approve);
        issued(&node, 1);
        // All requests of the dependents follow at once, two at a time; none of them takes its turn while it waits.
        for dependent in &dependents {
            dependent.wait_for(|now| !matches!(now.state, State::NoIdentity { .. })).within(BOUND).unwrap();
        }
        fleet.shutdown().wait();
    });
}

#[test]
fn two_fleets_in_one_process_do_not_share_limits_or_ends() {
    on_both_limited(1, |one| {
        let two = fleet(Runtime::Std, Limits::default());
        let server = serve(Approval::Manual);
        let stuck = add(&one, &server, "worker-1");
        waits_for_approval(&stuck);
        let queued = add(&one, &server, "worker-2");
        queued.wait_for(|now| matches!(now.state, State::Queued { .. })).within(BOUND).unwrap();
        let ca = Ca::new();
        let other = two.add(ca.member("other")).unwrap();
        issued(&other, 1);
        one.shutdown().wait();
        assert!(one.has_ended() && !two.has_ended());
        other.rotate_now();
        issued(&other, 2);
        two.shutdown().wait();
    });
}

#[test]
fn fleet_without_handles_ends_after_its_last_member() {
    on_both(|fleet| {
        let (ca, mut notices) = (Ca::new(), fleet.notices(usize::MAX));
        let last = fleet.add(ca.member("last")).unwrap();
        drop(fleet);
        issued(&last, 1);
        last.shutdown().wait();
        let end = std::iter::from_fn(|| notices.recv().within(BOUND)).last().unwrap();
        assert!(matches!(end.notice.news, News::Ended));
        assert!(notices.recv().within(Duration::ZERO).is_none());
    });
}
