//! Authentication at the embedded server, through TLS: accepted and rejected certificates, tokens and headers.

use std::time::Duration;

use crate::support::wire::Wire;
use crate::support::*;
use perennial_dev::{Authority, Options, Random, User};
use perennial_pki::Credential;
use rustls::AlertDescription::{CertificateExpired, UnknownCA, UnsupportedCertificate};
use rustls::{AlertDescription, Error};

const HOUR: Duration = Duration::from_secs(3600);

/// HTTP status of a LIST request with these headers.
fn status(wire: &mut Wire, headers: &str) -> String {
    let text = wire.exchange(format!("GET {COLLECTION} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes());
    text.split(' ').nth(1).unwrap_or("none").to_owned()
}

/// Sends a request with a valid token and this client certificate. Returns the HTTP status. If the server closes the
/// connection, returns the client's TLS error, or `None` if the client noticed no error.
fn shown(credential: impl FnOnce(&Authority, &mut Random) -> Credential) -> Result<String, Option<Error>> {
    let mut wire =
        Wire::with_client(Options::default(), usize::MAX, |authority, random| Some(credential(authority, random)));
    let status = status(&mut wire, &format!("Authorization: Bearer {TOKEN}\r\n"));
    if wire.session.is_closed() { Err(wire.error) } else { Ok(status) }
}

#[test]
fn invalid_client_certificate_ends_the_handshake_despite_a_token() {
    let client = |authority: &Authority, random: &mut Random, from| {
        authority.client_credential("root", &["system:masters"], random, from, HOUR).unwrap()
    };
    let alert = |alert: AlertDescription| Err(Some(Error::AlertReceived(alert)));
    assert_eq!(shown(|authority, random| client(authority, random, NOW)), Ok("200".into()));

    assert_eq!(shown(|authority, random| client(authority, random, NOW.before(2 * HOUR))), alert(CertificateExpired));
    // TLS has no alert for a certificate that is not valid yet, except the one for expiry.
    assert_eq!(shown(|authority, random| client(authority, random, NOW.after(2 * HOUR))), alert(CertificateExpired));
    let serving = |authority: &Authority, random: &mut Random| {
        authority.server_credential(&["localhost"], &[], random, NOW, HOUR).unwrap()
    };
    assert_eq!(shown(serving), alert(UnsupportedCertificate));
    let foreign = |_: &Authority, random: &mut Random| {
        let other = Authority::generate(random, NOW, DAY).unwrap();
        client(&other, random, NOW)
    };
    assert_eq!(shown(foreign), alert(UnknownCA));
}

#[test]
fn empty_bearer_token_authenticates_nobody() {
    let mut wire = Wire::new(Options::default(), usize::MAX);
    wire.api.add_token("", User::new("root", ["system:masters"]));
    for blank in ["", " ", "\u{a0}"] {
        assert_eq!(status(&mut wire, &format!("Authorization: Bearer {blank}\r\n")), "401", "{blank:?}");
    }
}

#[test]
fn authorization_other_than_one_exact_bearer_token_gets_401() {
    let upper = TOKEN.to_uppercase();
    let (start, swapped) = (&TOKEN[..TOKEN.len() - 1], "0123456789abcdef.abcdef");
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("x:{TOKEN}"));
    let mut wire = Wire::new(Options::default(), usize::MAX);
    for (headers, expected) in [
        (format!("Authorization: Bearer {TOKEN}"), "200"),
        (format!("authorization: bearer {TOKEN}"), "200"),
        (format!("Authorization: Bearer {start}"), "401"),
        (format!("Authorization: Bearer {}", &TOKEN[1..]), "401"),
        (format!("Authorization: Bearer {TOKEN}f"), "401"),
        (format!("Authorization: Bearer {TOKEN} f"), "401"),
        (format!("Authorization: Bearer {TOKEN},"), "401"),
        (format!("Authorization: Bearer {TOKEN}{TOKEN}"), "401"),
        (format!("Authorization: Bearer {upper}"), "401"),
        (format!("Authorization: Bearer {swapped}"), "401"),
        ("Authorization: Bearer abcdef".into(), "401"),
        ("Authorization: Bearer abcdef.".into(), "401"),
        ("Authorization: Bearer ".into(), "401"),
        ("Authorization: Bearer".into(), "401"),
        ("Authorization:".into(), "401"),
        (format!("Authorization: {TOKEN}"), "401"),
        (format!("Authorization: Bearer{TOKEN}"), "401"),
        (format!("Authorization: Bearer\t{TOKEN}"), "401"),
        (format!("Authorization: Basic {basic}"), "401"),
        (format!("Authorization: Basic {TOKEN}"), "401"),
        (format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}"), "401"),
        (format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer x"), "401"),
        (format!("Authorization: Bearer x\r\nAuthorization: Bearer {TOKEN}"), "401"),
        (format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Basic x"), "401"),
        (format!("Proxy-Authorization: Bearer {TOKEN}"), "401"),
        (format!("Cookie: token={TOKEN}"), "401"),
    ] {
        assert_eq!(status(&mut wire, &format!("{headers}\r\n")), expected, "{headers}");
    }
    let target = format!("GET {COLLECTION}?access_token={TOKEN}&token={TOKEN} HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(wire.exchange(target.as_bytes()).starts_with("HTTP/1.1 401"));
}

#[test]
fn headers_of_authenticating_proxies_are_ignored() {
    let mut wire = Wire::new(Options::default(), usize::MAX);
    for header in ["X-Remote-User: root", "X-Remote-Group: system:masters", "X-Forwarded-User: root"] {
        assert_eq!(status(&mut wire, &format!("{header}\r\n")), "401", "{header}");
    }
}

#[test]
fn impersonation_is_refused() {
    let administrator = |authority: &Authority, random: &mut Random| {
        authority.client_credential("root", &["system:masters"], random, NOW, HOUR).ok()
    };
    for header in [
        "Impersonate-User: system:admin",
        "impersonate-group: system:masters",
        "IMPERSONATE-UID: 1",
        "Impersonate-Extra-Scopes: x",
        "Impersonate-User:",
    ] {
        let mut node = Wire::new(Options::default(), usize::MAX);
        assert_eq!(status(&mut node, &format!("Authorization: Bearer {TOKEN}\r\n{header}\r\n")), "403", "{header}");
        assert_eq!(status(&mut node, &format!("{header}\r\n")), "401", "{header}");
        // The answer must not be that of the administrator if a user with fewer rights is impersonated.
        let mut root = Wire::with_client(Options::default(), usize::MAX, administrator);
        let text = root.exchange(format!("GET {COLLECTION} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n").as_bytes());
        assert!(text.starts_with("HTTP/1.1 403") && text.contains("cannot impersonate"), "{header}: {text}");
    }
}
