//! A signer that chooses the names of its certificates: the template of the rotation has none.

use std::sync::Arc;
use std::time::Duration;

use crate::authority::Authority;
use perennial::{Failure, Now, State, Template, TemplateError, Validity};
use perennial_pki::read_request;
use perennial_rotation::{
    Authentication, Cancel, Exchange, Handle, Memory, Profile, Rotator, SignError, SignRequest, Signer, StartError,
    Task, Work, clock,
};

/// A CA that issues each certificate for a pod of its own choice.
#[derive(Debug)]
struct Ca {
    authority: Arc<Authority>,
    validity: Validity,
    profile: Profile,
    authentication: Authentication,
    chooses: bool,
    digest: Option<&'static str>,
}

impl Ca {
    fn new(chooses: bool) -> Arc<Self> {
        Arc::new(Self::for_requests(chooses, None))
    }

    /// A CA whose requests have this digest.
    fn for_requests(chooses: bool, digest: Option<&'static str>) -> Self {
        let begin = clock::now().unix;
        let validity = Validity::new(begin, begin.after(Duration::from_secs(86_400))).unwrap();
        let authority = Arc::new(Authority::new(validity));
        // Of no usage: kubelet checks none of a pod's certificate.
        let (profile, authentication) = (Profile::new([]), Authentication::None);
        Self { authority, validity, profile, authentication, chooses, digest }
    }
}

/// The names that the signer chooses: both kinds that can grant rights among them.
fn chosen() -> Template {
    Template::new("web").with_organizations(["pods"]).with_uris(["spiffe://cluster.example/ns/default/sa/web"])
}

impl Signer for Ca {
    fn name(&self) -> &'static str {
        "example.com/pods"
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    fn chooses_names(&self) -> bool {
        self.chooses
    }

    fn request_digest(&self) -> Option<String> {
        self.digest.map(str::to_owned)
    }

    fn begin(&self, request: SignRequest, _: Now) -> Result<Exchange, SignError> {
        let (authority, validity) = (self.authority.clone(), self.validity);
        Ok(Exchange::blocking(move |_| {
            let stub = read_request(request.csr.pem.as_bytes()).unwrap();
            assert_eq!((&*stub.common_name, stub.names.uris.len()), ("", 0));
            Ok(authority.issue(&chosen(), &stub.public_key_der, validity).into())
        }))
    }
}

/// Steps once, and carries all work out.
fn step(task: &mut Task) {
    for work in task.step(clock::now()) {
        match work {
            Work::Drive(Exchange::Blocking(sign), reporter) => reporter.finish(sign(&Cancel::default())),
            work => panic!("{work:?}"),
        }
    }
}

fn named(handle: &Handle) -> Option<Template> {
    handle.credential().map(|held| Template::clone(&held.chain().certificate().names))
}

#[test]
fn certificate_with_names_of_the_signer_is_served_again_after_restart() {
    let (ca, store) = (Ca::new(true), Arc::new(Memory::default()));
    let rotator = || Rotator::new().name("web/0").template(Template::default()).signer(ca.clone()).store(store.clone());
    let (handle, mut task) = rotator().prepare().unwrap();
    step(&mut task);
    assert!(task.step(clock::now()).is_empty());
    assert_eq!(named(&handle), Some(chosen()));
    let State::Scheduled { rotate_at } = handle.state() else { panic!("{}", handle.state()) };
    drop(task);
    let (restarted, mut task) = rotator().prepare().unwrap();
    assert!(task.step(clock::now()).is_empty(), "nothing is requested anew");
    assert_eq!((named(&restarted), restarted.state()), (Some(chosen()), State::Scheduled { rotate_at }));
}

/// Without a digest on one side, nothing shows a change.
#[test]
fn certificate_is_replaced_once_if_digest_of_requests_changes() {
    let digests = [None, Some("a"), Some("b")];
    for (before, after) in digests.iter().flat_map(|before| digests.map(|after| (*before, after))) {
        for is_restart in [false, true] {
            let (first, next) = (Ca::for_requests(true, before), Ca::for_requests(true, after));
            let store = Arc::new(Memory::default());
            let rotator = || Rotator::new().name("web/0").template(Template::default()).store(store.clone());
            let (mut handle, mut task) = rotator().signer(Arc::new(first)).prepare().unwrap();
            step(&mut task);
            assert!(task.step(clock::now()).is_empty());
            let next = Arc::new(next);
            match is_restart {
                true => (handle, task) = rotator().signer(next.clone()).prepare().unwrap(),
                false => handle.set_signer(Some(next.clone())),
            }
            let fingerprint = |handle: &Handle| handle.credential().map(|held| held.chain().certificate().fingerprint);
            let old = fingerprint(&handle).unwrap();
            // The spacing of requests holds.
            let minute = Duration::from_secs(60);
            let mut later = clock::now();
            let mut requests = 0;
            for _ in 0..3 {
                later = Now { instant: later.instant.after(minute), unix: later.unix.after(minute) };
                for work in task.step(later) {
                    let Work::Drive(Exchange::Blocking(sign), reporter) = work else { continue };
                    requests += 1;
                    reporter.finish(sign(&Cancel::default()));
                }
            }
            let is_changed = matches!((before, after), (Some(before), Some(after)) if before != after);
            assert_eq!((requests, fingerprint(&handle) != Some(old)), (usize::from(is_changed), is_changed));
            let (_, mut task) = rotator().signer(next).prepare().unwrap();
            assert!(task.step(later).is_empty(), "{before:?} {after:?}");
        }
    }
}

/// Rotations of one signer without common names would all rotate at one time.
#[test]
fn rotation_points_without_common_names_differ_by_the_names_of_the_rotations() {
    let (ca, store) = (Ca::new(true), Arc::new(Memory::default()));
    let mut points = Vec::new();
    for name in ["web/0", "web/1"] {
        let rotator = Rotator::new().name(name).template(Template::default()).signer(ca.clone()).store(store.clone());
        let (handle, mut task) = rotator.prepare().unwrap();
        step(&mut task);
        task.step(clock::now());
        points.push(handle.state());
    }
    // Both rotations have the certificate of the first one.
    assert!(matches!(points[..], [State::Scheduled { .. }, State::Scheduled { .. }]), "{points:?}");
    assert_ne!(points[0], points[1]);
}

#[test]
fn template_without_names_is_an_error_for_signers_that_choose_none() {
    let (ca, template) = (Ca::new(false), Template::default());
    let refused = Rotator::new().template(template.clone()).signer(ca.clone()).prepare();
    assert!(matches!(refused, Err(StartError::Template(TemplateError::Empty))), "{refused:?}");
    let (handle, mut task) = Rotator::new().template(template).signer(Ca::new(true)).prepare().unwrap();
    handle.set_signer(Some(ca));
    assert!(task.step(clock::now()).is_empty(), "nothing is requested");
    let State::BackingOff { last, .. } = handle.state() else { panic!("{}", handle.state()) };
    assert_eq!(last, Failure::Rejected);
}
