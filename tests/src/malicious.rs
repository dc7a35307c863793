//! Certificates that a broken or hostile signer could issue. Each row of [`table`] states whether Go and openssl accept
//! the certificate; `.ci/kubectl` checks these statements with both programs.

use std::borrow::Cow;

use perennial::{Template, UnixTime};
use perennial_pki::KeyPair;
use rustls::SignatureScheme;

/// A malformed or hostile certificate, and which programs accept it.
#[derive(Clone, Copy, Debug)]
pub struct Malicious {
    /// The name of the certificate, for messages and file names.
    pub name: &'static str,
    /// True if Go loads a pair with this certificate.
    pub go: bool,
    /// True if openssl prints this certificate.
    pub openssl: bool,
    /// Part of the error with which perennial rejects this certificate; `None` if perennial accepts the certificate.
    pub refused: Option<&'static str>,
    change: fn(&mut Parts),
}

/// The parts of a certificate, in DER. Each malicious certificate changes some of them.
struct Parts {
    version: Vec<u8>,
    serial: Vec<u8>,
    inner_algorithm: Vec<u8>,
    outer_algorithm: Vec<u8>,
    subject: Vec<u8>,
    validity: [Vec<u8>; 2],
    /// The unique identifiers, which stand between the public key and the extensions. Empty unless this is the fault of
    /// the certificate.
    unique_id: Vec<u8>,
    extensions: Vec<Vec<u8>>,
    /// The number of unused bits in the last byte of the signature.
    unused: u8,
    /// Bytes that follow the DER of the certificate.
    behind: Vec<u8>,
    broken: bool,
}

const ECDSA_SHA256: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 15];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 19];
const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 37];
const ALT_NAMES: [u8; 3] = [0x55, 0x1d, 17];
const UNKNOWN: [u8; 4] = [0x2b, 6, 1, 99];
const CLIENT_AUTH: [u8; 12] = [0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];
const TRUE: [u8; 3] = [1, 1, 0xff];
const BER_TRUE: [u8; 3] = [1, 1, 1];

/// All malicious certificates. The first one has no fault, and shows that a certificate which is made in the same way
/// is accepted.
#[must_use]
pub fn table() -> Vec<Malicious> {
    let row = |name, go, openssl, refused, change| Malicious { name, go, openssl, refused, change };
    vec![
        row("good", true, true, None, |_| {}),
        row("empty serial", false, false, Some("a number has no digits"), |it| it.serial = tlv(2, &[])),
        row("negative serial", false, true, Some("serial number is negative"), |it| it.serial = tlv(2, &[0x85])),
        row("padded serial", false, false, Some("superfluous digits"), |it| it.serial = tlv(2, &[0, 5])),
        row("version 7", false, true, Some("its version is 7"), |it| it.version = tlv(0xa0, &[2, 1, 6])),
        row("version 1", true, true, Some("not an X.509 certificate of version 3"), |it| it.version = vec![]),
        row("common name in octets", false, false, Some("that is not text: its DER tag is 4"), |it| {
            it.subject = name(4, b"system:node:worker-1");
        }),
        row("common name in bad characters", false, true, Some("characters that its type excludes"), |it| {
            it.subject = name(0x13, b"system:node:worker@1");
        }),
        row("common name in bad UTF-8", false, false, Some("characters that its type excludes"), |it| {
            it.subject = name(0x0c, b"system:node:worker\xff1");
        }),
        row("two signature algorithms", false, true, Some("two different signature algorithms"), |it| {
            it.inner_algorithm = ECDSA_SHA384.to_vec();
        }),
        row("critical flag not DER", false, true, Some("a boolean is neither 00 nor FF"), |it| {
            it.extensions[0] = extension(&KEY_USAGE, &BER_TRUE, &[3, 2, 7, 0x80]);
        }),
        row("CA flag not DER", false, true, Some("in extension 2.5.29.19, a boolean is neither 00 nor FF"), |it| {
            it.extensions.push(extension(&BASIC_CONSTRAINTS, &TRUE, &tlv(0x30, &BER_TRUE)));
        }),
        row("unknown critical extension", true, true, Some("a critical extension that TLS peers do not know"), |it| {
            it.extensions.push(extension(&UNKNOWN, &TRUE, &[5, 0]));
        }),
        row("CA", true, true, Some("is a CA certificate"), |it| {
            it.extensions.push(extension(&BASIC_CONSTRAINTS, &TRUE, &tlv(0x30, &TRUE)));
        }),
        row("extension twice", false, true, Some("the same extension twice"), |it| {
            it.extensions.push(it.extensions[1].clone());
        }),
        row("unknown extension twice", false, true, Some("it has extension 1.3.6.1.99 twice"), |it| {
            it.extensions.extend([extension(&UNKNOWN, &[], &[5, 0]), extension(&UNKNOWN, &[], &[5, 0])]);
        }),
        row("empty extended key usage", true, true, Some("extended key usage is empty"), |it| {
            it.extensions[1] = extension(&EXTENDED_KEY_USAGE, &[], &[0x30, 0]);
        }),
        row("malformed key usage", false, true, Some("an extension is malformed"), |it| {
            it.extensions[0] = extension(&KEY_USAGE, &TRUE, &[0x30, 0]);
        }),
        row("address of five bytes", false, true, Some("IP address of 5 bytes"), |it| {
            it.extensions.push(extension(&ALT_NAMES, &[], &tlv(0x30, &tlv(0x87, &[1, 2, 3, 4, 5]))));
        }),
        row("date without seconds", true, true, Some("a date is not in the form"), |it| {
            it.validity[0] = tlv(0x17, b"2601010000Z");
        }),
        row("date with a zone", false, true, Some("a date is not in the form"), |it| {
            it.validity[0] = tlv(0x17, b"260101000000+0000");
        }),
        row("long form of a short length", false, true, Some("a length is malformed"), |it| {
            it.serial = vec![2, 0x81, 1, 5];
        }),
        row("unique identifier", true, true, Some("not correctly encoded DER"), |it| {
            it.unique_id = tlv(0x81, &[0, 1]);
        }),
        row("signature with unused bits", true, true, Some("not correctly encoded DER"), |it| it.unused = 1),
        row("bytes behind it", false, true, Some("1 bytes follow"), |it| it.behind = vec![0]),
        row("broken signature", true, true, None, |it| it.broken = true),
    ]
}

impl Malicious {
    /// Makes this certificate in DER: for the node `worker-1` and the key `public_key` (a `SubjectPublicKeyInfo`),
    /// signed by `issuer`, a P-256 key. The certificate is valid from an hour before to an hour after `now`, in whole
    /// seconds, unless its fault is in the dates.
    #[must_use]
    pub fn forge(&self, issuer: &KeyPair, issuer_name: &[u8], public_key: &[u8], now: UnixTime) -> Vec<u8> {
        let hour = std::time::Duration::from_secs(3600);
        let mut parts = Parts {
            version: tlv(0xa0, &[2, 1, 2]),
            serial: tlv(2, &[5]),
            inner_algorithm: ECDSA_SHA256.to_vec(),
            outer_algorithm: ECDSA_SHA256.to_vec(),
            subject: name(0x13, Template::node("worker-1").common_name().as_bytes()),
            validity: [date(now.before(hour)), date(now.after(hour))],
            unique_id: vec![],
            extensions: vec![
                extension(&KEY_USAGE, &TRUE, &[3, 2, 7, 0x80]),
                extension(&EXTENDED_KEY_USAGE, &[], &CLIENT_AUTH),
            ],
            unused: 0,
            behind: vec![],
            broken: false,
        };
        (self.change)(&mut parts);
        parts.sign(issuer, issuer_name, public_key)
    }
}

impl Parts {
    fn sign(&self, issuer: &KeyPair, issuer_name: &[u8], public_key: &[u8]) -> Vec<u8> {
        let extensions = tlv(0xa3, &tlv(0x30, &self.extensions.concat()));
        let validity = tlv(0x30, &self.validity.concat());
        let to_be_signed = tlv(
            0x30,
            &[
                &self.version,
                &self.serial,
                &self.inner_algorithm,
                issuer_name,
                &validity,
                &self.subject,
                public_key,
                &self.unique_id,
                &extensions,
            ]
            .map(|part: &[u8]| part)
            .concat(),
        );
        let key = issuer.signing_key();
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).expect("a P-256 key");
        let message = if self.broken { Cow::Borrowed(&b"something else"[..]) } else { Cow::Borrowed(&*to_be_signed) };
        let mut signature = signer.sign(&message).expect("a signature");
        // DER requires unused bits to be zero: the fault of this row is only that there are any.
        signature.last_mut().into_iter().for_each(|last| *last &= 0xff << self.unused);
        let signature = tlv(3, &[&[self.unused], &signature[..]].concat());
        let certificate =
            tlv(0x30, &[&to_be_signed, &self.outer_algorithm, &signature].map(|part: &Vec<u8>| &part[..]).concat());
        [certificate, self.behind.clone()].concat()
    }
}

/// The subject of a node. Its common name has the string type with the DER tag `tag`, and the contents `text`.
fn name(tag: u8, text: &[u8]) -> Vec<u8> {
    let attribute = |oid: u8, value: &[u8]| tlv(0x31, &tlv(0x30, &[&[6, 3, 0x55, 4, oid], value].concat()));
    tlv(0x30, &[attribute(10, &tlv(0x13, b"system:nodes")), attribute(3, &tlv(tag, text))].concat())
}

fn extension(oid: &[u8], critical: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(0x30, &[&tlv(6, oid), critical, &tlv(4, value)].concat())
}

fn date(at: UnixTime) -> Vec<u8> {
    let (year, month, day, hour, minute, second, _) = at.civil();
    tlv(0x18, format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z").as_bytes())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short");
    let [high, low] = length.to_be_bytes();
    let header = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&header, content].concat()
}
