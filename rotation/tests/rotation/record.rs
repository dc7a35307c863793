//! Pending records: encoding and decoding lose nothing, damage that makes a record unreadable is an error, and no error
//! shows the key.

use std::sync::Arc;

use perennial::{Failure, Fingerprint, Key, Pending, Refusal, Renewal, Template, UnixTime};
use perennial_pki::{KeyAlgorithm, KeyPair};
use perennial_rotation::{Record, RecordError};
use proptest::collection::vec;
use proptest::prelude::*;

const REFUSALS: [Failure; 6] = [
    Failure::Denied,
    Failure::SignerFailed,
    Failure::Rejected,
    Failure::BadCertificate,
    Failure::Unsatisfying,
    Failure::AlreadyDue,
];

fn record(key: Option<KeyPair>, refusal: Option<Refusal>) -> Record {
    let template =
        Template::node("one").with_dns_names(["one.example"]).with_ip_addresses(["10.0.0.1".parse().unwrap()]);
    let pending = Pending {
        template: Arc::new(template),
        key: if key.is_some() { Key::Pending } else { Key::New },
        submitted: UnixTime::from_millis(1_800_000_000_123),
        budget_whole: UnixTime::from_millis(1_800_000_090_456),
        refusal,
    };
    let (signer_name, request_name) = ("kubernetes.io/kubelet-serving".into(), "node-csr-abc".into());
    let server = Some("https://api.example:6443".into());
    Record {
        server,
        signer_name,
        request_name,
        pending,
        renewal: None,
        request_digest: None,
        outdated: None,
        turned_down: None,
        key: key.map(Arc::new),
    }
}

fn denied() -> Refusal {
    Refusal { failure: Failure::Denied, failures: 3, retry_at: UnixTime::from_secs(1_800_000_300) }
}

fn key() -> KeyPair {
    KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

fn same(one: &Record, other: &Record) -> bool {
    let key = |record: &Record| record.key.as_ref().map(|key| key.to_pem());
    one.server == other.server
        && (&one.signer_name, &one.request_name, &one.pending)
            == (&other.signer_name, &other.request_name, &other.pending)
        && (one.renewal, &one.request_digest, one.outdated, one.turned_down)
            == (other.renewal, &other.request_digest, other.outdated, other.turned_down)
        && key(one) == key(other)
}

#[test]
fn record_roundtrips_every_key_algorithm_and_refusal() {
    let keys = [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519];
    let keys = keys.map(|algorithm| Some(KeyPair::generate(algorithm).unwrap()));
    for (key, failure) in keys.into_iter().chain([None, None, None]).zip(REFUSALS) {
        assert!(failure.is_refusal());
        let record = record(key, Some(Refusal { failure, ..denied() }));
        assert!(same(&Record::decode(&record.encode()).unwrap(), &record), "{record:?}");
    }
}

proptest! {
    #[test]
    fn record_roundtrips_any_names_and_times(
        names in vec(any::<String>(), 4),
        server in proptest::option::of(any::<String>()),
        organizations in vec(any::<String>(), 0..3),
        ips in vec(any::<std::net::IpAddr>(), 0..3),
        rare in vec(vec(any::<String>(), 0..3), 2),
        serial_number in any::<String>(),
        times in any::<[i64; 4]>(),
        fingerprint in proptest::option::of(any::<[u8; 32]>()),
        refusal in proptest::option::of((0..6_usize, any::<u32>())),
        turned_down in proptest::sample::select(vec![None, Some(Failure::Unauthorized), Some(Failure::Forbidden)]),
    ) {
        let template = Template::new(names[0].as_str())
            .with_organizations(organizations)
            .with_dns_names([names[1].as_str()])
            .with_ip_addresses(ips)
            .with_uris(rare[0].clone())
            .with_organizational_units(rare[1].clone())
            .with_serial_number(serial_number);
        let [submitted, budget_whole, retry_at, rotate_at] = times.map(UnixTime::from_millis);
        let refusal = refusal.map(|(n, failures)| Refusal { failure: REFUSALS[n], failures, retry_at });
        let renewal = fingerprint.map(|bytes| Renewal { fingerprint: Fingerprint(bytes), rotate_at });
        let pending = Pending { template: Arc::new(template), key: Key::New, submitted, budget_whole, refusal };
        let (signer_name, request_name) = (names[2].clone(), names[3].clone());
        let (request_digest, outdated) = (Some(names[0].clone()), fingerprint.map(Fingerprint));
        let key = None;
        let record =
            Record { server, signer_name, request_digest, request_name, pending, renewal, outdated, turned_down, key };
        prop_assert!(same(&Record::decode(&record.encode()).unwrap(), &record));
    }

    #[test]
    fn decode_rejects_random_bytes(noise in vec(any::<u8>(), 0..200)) {
        prop_assert!(Record::decode(&noise).is_err());
    }
}

#[test]
fn decode_accepts_a_record_without_server() {
    let record = record(Some(key()), Some(denied()));
    let encoded = record.encode();
    let text = std::str::from_utf8(&encoded).unwrap();
    let without = text.lines().filter(|line| !line.contains("\"server\"")).collect::<Vec<_>>().join("\n");
    assert!(without.len() < text.len());
    assert!(same(&Record::decode(without.as_bytes()).unwrap(), &Record { server: None, ..record }));
}

/// `older` is a record of a version that did not know URIs, organizational units and serial numbers. That version
/// refuses a record with unknown fields. A record of today that has none of these names must therefore have no new
/// field.
#[test]
fn record_without_rare_names_and_hint_has_the_fields_of_older_versions() {
    let older = r#"{
  "version": 1,
  "server": "https://api.example:6443",
  "signerName": "kubernetes.io/kubelet-serving",
  "csrName": "node-csr-abc",
  "commonName": "system:node:one",
  "organizations": [
    "system:nodes"
  ],
  "dnsNames": [
    "one.example"
  ],
  "ipAddresses": [
    "10.0.0.1"
  ],
  "submitted": 1800000000123,
  "budgetWhole": 1800000090456,
  "refusal": {
    "reason": "Denied",
    "failures": 3,
    "retryAt": 1800000300000
  }
}"#;
    let record = record(None, Some(denied()));
    assert_eq!(std::str::from_utf8(&record.encode()).unwrap(), older);
    assert!(same(&Record::decode(older.as_bytes()).unwrap(), &record));
}

#[test]
fn record_with_hinted_rotation_point_names_its_certificate() {
    let renewal = Renewal { fingerprint: Fingerprint([0xab; 32]), rotate_at: UnixTime::from_secs(1_800_000_400) };
    let mut record = record(None, None);
    record.renewal = Some(renewal);
    let encoded = record.encode();
    let text = std::str::from_utf8(&encoded).unwrap();
    assert!(text.contains(&format!("\"fingerprint\": \"{}\"", "ab".repeat(32))), "{text}");
    assert_eq!(Record::decode(&encoded).unwrap().renewal, Some(renewal));
    let damaged = text.replace(&"ab".repeat(32), "not a fingerprint");
    assert_eq!(Record::decode(damaged.as_bytes()).unwrap_err(), RecordError::Fingerprint);
}

/// True if `text` shows a part of `key`: any eight consecutive characters of the base64 of its PEM text.
fn shows(key: &KeyPair, text: &str) -> bool {
    let pem = key.to_pem();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64.as_bytes().windows(8).any(|part| text.contains(std::str::from_utf8(part).unwrap()))
}

#[test]
fn decode_error_of_damaged_record_never_shows_the_key() {
    let record = record(Some(key()), Some(denied()));
    let (encoded, key) = (record.encode(), record.key.as_ref().unwrap());
    assert!(shows(key, std::str::from_utf8(&encoded).unwrap()));
    let mut errors = 0;
    for at in 0..encoded.len() {
        for flip in [0x01, 0x02, 0x10, 0x20, 0x80, 0xff] {
            let mut damaged = encoded.to_vec();
            damaged[at] ^= flip;
            match Record::decode(&damaged) {
                Ok(other) => assert!(same(&Record::decode(&other.encode()).unwrap(), &other)),
                Err(error) => {
                    errors += 1;
                    assert!(!shows(key, &format!("{error} {error:?}")), "{error}");
                }
            }
        }
        let cut = Record::decode(&encoded[..at]).unwrap_err();
        assert!(!shows(key, &format!("{cut} {cut:?}")), "{cut}");
    }
    assert!(errors > encoded.len(), "{errors} of {} bytes", encoded.len());
}

#[test]
fn decode_error_does_not_quote_key_in_wrong_field() {
    let record = record(Some(key()), None);
    let (encoded, key) = (record.encode(), record.key.as_ref().unwrap());
    let text = std::str::from_utf8(&encoded).unwrap();
    let line = key.to_pem().lines().nth(1).unwrap().to_owned();
    let wrong = [
        text.replace("1800000000123", &format!("{line:?}")),
        text.replace("\"submitted\"", &format!("{line:?}")),
        text.replace("10.0.0.1", &line),
        text.replace("\"version\": 1", &format!("\"version\": {line:?}")),
    ];
    for wrong in wrong {
        let error = Record::decode(wrong.as_bytes()).unwrap_err();
        assert!(!shows(key, &format!("{error} {error:?}")), "{error}");
    }
}

#[test]
fn decode_errors_name_the_problem_and_its_line() {
    let record = record(Some(key()), Some(denied()));
    let encoded = record.encode();
    let text = std::str::from_utf8(&encoded).unwrap();
    let error = |text: &str| Record::decode(text.as_bytes()).unwrap_err();
    assert_eq!(error(&text.replace("\"version\": 1", "\"version\": 2")), RecordError::Version { version: 2 });
    assert_eq!(error(&text.replace("Denied", "Delayed")), RecordError::Reason);
    assert!(matches!(error(&text.replace("BEGIN PRIVATE", "BEGIN PUBLIC")), RecordError::Key(_)));
    let end = error("{\n  \"version\": 1").to_string();
    assert_eq!(end, "it ends too early (line 2, column 14)");
    let extra = error(&text.replacen('{', "{ \"more\": 1,", 1));
    assert!(matches!(extra, RecordError::Text { what, line: 1, .. } if what.contains("field")), "{extra:?}");
}

#[test]
fn debug_output_of_record_shows_no_key() {
    let record = record(Some(key()), None);
    assert!(!shows(record.key.as_ref().unwrap(), &format!("{record:?}")));
}
