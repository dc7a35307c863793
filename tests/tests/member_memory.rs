//! Heap of one member of a fleet at rest: key, chain, machine, handle, published snapshot and store. A process that keeps
//! thousands of certificates needs this much memory for each.

mod counting;

use std::sync::Arc;
use std::time::Duration;

use counting::BYTES;
use perennial_pki::{Credential, Issuer, KeyAlgorithm, KeyPair, Terms, Usage, read_request, self_signed};
use perennial_rotation::{
    Cancel, Exchange, Fleet, FleetTask, Handle, Limits, Rotator, SignWith, State, Template, Validity, Work, clock,
};

/// Bytes that a member may have. Measured: 2,885.
const MOST: usize = 2_940;
const MEMBERS: usize = 100;

/// A CA that issues at once, on the thread of the test.
fn signer() -> SignWith {
    let (key, now) = (Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()), clock::now().unix);
    let validity = Validity::new(now.before(Duration::from_secs(60)), now.after(Duration::from_secs(86_400))).unwrap();
    let chain = self_signed("CA", &key, &[1], validity).unwrap();
    let issuer = Issuer::new(Credential::new(chain, key).unwrap()).unwrap();
    SignWith::blocking("example.com/ca", move |request, _| {
        let facts = read_request(request.csr.pem.as_bytes()).unwrap();
        // The public key is as good as random; the first byte of a serial number is not zero.
        let serial = [&[1], &facts.public_key_der[60..75]].concat();
        let terms = Terms { serial: &serial, validity, key_usages: &[], extended_key_usages: &[Usage::ClientAuth] };
        Ok(issuer.issue(&facts, &terms).unwrap())
    })
}

fn add(fleet: &Fleet, signer: &Arc<SignWith>, number: usize) -> Handle {
    let name = format!("worker-{number}");
    fleet.add(Rotator::new().name(&name).template(Template::node(&name)).signer(signer.clone())).unwrap()
}

/// Steps, and answers requests, until each member has a certificate.
fn settle(task: &mut FleetTask, handles: &[Handle]) {
    while !handles.iter().all(|handle| matches!(handle.state(), State::Scheduled { .. })) {
        for (_, work) in task.step(clock::now()) {
            match work {
                Work::Drive(Exchange::Blocking(work), reporter) => reporter.finish(work(&Cancel::default())),
                work => panic!("{work:?}"),
            }
        }
    }
    assert!(task.step(clock::now()).is_empty());
}

#[test]
fn resting_member_of_a_fleet_needs_about_three_kilobytes() {
    let (fleet, mut task) = Fleet::prepare(Limits::default());
    let signer = Arc::new(signer());
    let mut handles = Vec::with_capacity(MEMBERS + 1);
    // The first member makes what all share.
    handles.push(add(&fleet, &signer, 0));
    settle(&mut task, &handles);
    let before = BYTES.get();
    handles.extend((1..=MEMBERS).map(|number| add(&fleet, &signer, number)));
    settle(&mut task, &handles);
    let each = (BYTES.get() - before) / MEMBERS;
    println!("bytes of a member at rest: {each}");
    assert!(each <= MOST, "{each} bytes");
}
