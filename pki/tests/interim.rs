//! `Interim` replaces the interim certificate before it expires, and after a step back of the clock.

use std::time::Duration;

use perennial::{Template, UnixTime};
use perennial_pki::{Interim, interim};

const HOUR: Duration = Duration::from_secs(3600);

fn template() -> Template {
    Template::new("worker-1").with_dns_names(["worker-1", "worker-1.example"])
}

#[test]
fn interim_certificate_is_replaced_before_each_expiry() {
    let start = UnixTime::from_secs(1_800_000_000);
    let interim = Interim::new(template(), start).unwrap();
    let mut shown = vec![interim.credential(start)];
    for hour in 0..7 * 24 {
        let now = start.after(HOUR * hour);
        let credential = interim.credential(now);
        let certificate = credential.chain().certificate();
        assert!(certificate.validity.not_before() <= now && !certificate.validity.expired(now.after(HOUR)), "{hour}");
        assert!(template().satisfied_by(certificate));
        if certificate.fingerprint != shown.last().unwrap().chain().certificate().fingerprint {
            shown.push(credential);
        }
    }
    assert!((7..=10).contains(&shown.len()), "{}", shown.len());
}

#[test]
fn interim_certificate_is_replaced_after_clock_step_back() {
    let start = UnixTime::from_secs(1_800_000_000);
    let kept = Interim::new(template(), start).unwrap();
    let earlier = start.before(24 * HOUR);
    assert!(kept.credential(earlier).chain().certificate().validity.not_before() <= earlier);
}

#[test]
fn interim_refuses_invalid_dns_name() {
    let bad = Template::new("a").with_dns_names(["a b"]);
    let now = UnixTime::from_secs(1_800_000_000);
    assert_eq!(Interim::new(bad.clone(), now).unwrap_err(), interim(&bad, now).unwrap_err());
}
