//! A pair whose names are those of the template shares them with the template, so that each is in memory once.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Certificate, Instant, Now, Template, UnixTime};
use perennial_pki::{Credential, interim};
use perennial_rotation::{Input, Rotation, Start, Stored};

const NOW: Now = Now { instant: Instant::from_millis(0), unix: UnixTime::from_secs(1_800_000_000) };

fn pair(template: &Template) -> Option<Arc<Credential>> {
    Some(Arc::new(interim(template, NOW.unix).unwrap()))
}

fn rotation(template: &Arc<Template>, credential: Option<Arc<Credential>>) -> Rotation {
    let stored = Stored { credential, ..Stored::default() };
    Rotation::new(Start { template: Some(template.clone()), stored, ..Start::default() }, NOW)
}

fn is_shared(rotation: &Rotation, template: &Arc<Template>) -> bool {
    let certificate: &Arc<Certificate> = rotation.machine().certificate().unwrap();
    Arc::ptr_eq(&certificate.names, template)
}

#[test]
fn stored_pair_shares_names_of_equal_template() {
    let wanted = Arc::new(Template::node("worker-1"));
    let other = Arc::new(Template::node("worker-1").with_organizations(["dev"]));
    assert!(is_shared(&rotation(&wanted, pair(&wanted)), &wanted));
    assert!(!is_shared(&rotation(&other, pair(&wanted)), &other));
    let held_elsewhere = pair(&wanted);
    assert!(!is_shared(&rotation(&wanted, held_elsewhere.clone()), &wanted), "{held_elsewhere:?}");
}

#[test]
fn pair_of_another_program_shares_names_of_equal_template() {
    let wanted = Arc::new(Template::node("worker-1"));
    let mut rotation = rotation(&wanted, None);
    let later = Now { instant: NOW.instant.after(Duration::from_secs(1)), ..NOW };
    let _ = rotation.handle(Input::Replaced(pair(&wanted)), later);
    assert!(is_shared(&rotation, &wanted));
}
