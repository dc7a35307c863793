//! Templates that no certificate can carry are refused at once. A running rotation that refuses such a template
//! continues with the names that it has.

use std::future;
use std::sync::Arc;

use perennial::{State, Template, TemplateError};
use perennial_pki::interim;
use perennial_rotation::{Rotator, SignWith, StartError, Work, clock};

fn signer() -> SignWith {
    SignWith::future("example.com/mesh", |_| future::pending())
}

fn bad() -> Template {
    Template::new("mesh-1").with_uris(["spiffe://Mesh.example/a"])
}

#[test]
fn prepare_refuses_template_that_no_certificate_can_carry() {
    for (template, part) in [(bad(), "trust domain"), (Template::default(), "without names")] {
        let error = Rotator::new().template(template.clone()).signer(signer()).prepare().unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        let StartError::Template(error) = error else { panic!("{error}") };
        assert_eq!(Err(error), template.check());
    }
}

#[test]
fn set_template_refuses_bad_names_and_keeps_certificate_and_names() {
    let (handle, mut task) = Rotator::new().template(Template::new("mesh-1")).signer(signer()).prepare().unwrap();
    let now = clock::now();
    assert!(matches!(task.step(now)[..], [Work::Drive(..)]), "{}", handle.state());
    let current = Arc::new(interim(&Template::new("mesh-1"), now.unix).unwrap());
    handle.report_replaced(Some(current.clone()));
    drop(task.step(now));
    assert_eq!(handle.credential().unwrap().chain(), current.chain());

    assert!(matches!(handle.set_template(Some(bad())), Err(TemplateError::Name { kind: "URI", .. })));
    assert!(task.step(now).is_empty(), "the rotation does not learn of the refused names");
    assert_eq!(handle.credential().unwrap().chain(), current.chain());
    assert!(matches!(handle.state(), State::Scheduled { .. }), "{}", handle.state());

    handle.set_template(Some(Template::new("mesh-1").with_uris(["spiffe://mesh.example/a"]))).unwrap();
    let _ = task.step(now);
    assert!(!matches!(handle.state(), State::Scheduled { .. }), "the certificate lacks the URI: {}", handle.state());
    assert_eq!(handle.credential().unwrap().chain(), current.chain());
}
