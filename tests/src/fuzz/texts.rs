//! Fuzzes the texts that perennial reads: pending records, kubelet's configuration, Node objects and journals.

use std::fmt::{Debug, Display};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use perennial::{
    Event, Fingerprint, Key, Now, Pending, Refusal, Renewal, RenewalHint, RotationMachine, Setup, Template,
};
use perennial_kubernetes::addresses::Addresses;
use perennial_kubernetes::kubelet_config::KubeletConfig;
use perennial_rotation::journal::{self, Replay, ReplayError};
use perennial_rotation::{Record, Transition};

use super::pki::Pki;
use super::text;
use crate::mint::{self, EPOCH};

/// A limit on the length of an error's message in bytes: each message is one line, shorter than this plus eight times
/// the length of the text, parts of which the message may quote.
const LONGEST_MESSAGE: usize = 1024;

/// Checks one of four readers with any text. The first byte selects the reader. The reader must return consistent
/// values, or an error whose text is printable and shows no secret. A pending record that was read must be the same
/// after it is written and read again.
pub fn texts(bytes: &[u8]) {
    let (which, rest) = text::first(bytes);
    let text = text::expand(rest, &WORDS);
    match which % 4 {
        0 => record(&text),
        1 => kubelet_config(&text),
        2 => node(&text),
        _ => journal(&text),
    }
}

fn record(text: &[u8]) {
    let record = match Record::decode(text) {
        Ok(record) => record,
        Err(error) => return check_message(&error, text),
    };
    assert_eq!(record.key.is_some(), record.pending.key == Key::Pending);
    let again = Record::decode(&record.encode()).expect("our own encoding can be read");
    let key = |record: &Record| record.key.as_ref().map(|key| key.public_key_der().to_vec());
    assert_eq!((&again.signer_name, &again.request_name), (&record.signer_name, &record.request_name));
    assert_eq!((&again.pending, again.renewal, key(&again)), (&record.pending, record.renewal, key(&record)));
    assert_eq!((&again.request_digest, again.outdated), (&record.request_digest, record.outdated));
    // A machine that begins with any readable record has a deadline and makes progress.
    let (template, renewal) = (Some(record.pending.template.clone()), record.renewal);
    let setup = Setup { template, pending: Some(record.pending), renewal, ..Setup::default() };
    let mut machine = RotationMachine::new(setup, START);
    assert_eq!(machine.deadline(), Some(START.instant));
    let _ = machine.handle(Event::Tick, START);
    assert!(machine.deadline() > Some(START.instant), "{machine}");
}

fn kubelet_config(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    match KubeletConfig::parse(Path::new("/var/lib/kubelet/config.yaml"), &text) {
        Ok(config) => {
            assert_eq!(config.tls_cert_file.is_some(), config.tls_private_key_file.is_some());
            config.warnings.iter().for_each(|warning| check_message(warning, text.as_bytes()));
        }
        Err(error) => check_message(&error, text.as_bytes()),
    }
}

fn node(text: &[u8]) {
    // The error is `serde_json`'s, which is not checked here.
    let template = Addresses::of_node(text).ok().and_then(|addresses| addresses.template("worker-1"));
    let Some(template) = template else { return };
    assert!(template.ip_addresses().next().is_some());
    let name = |name: &str| name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(template.dns_names().all(name), "{template}");
}

fn journal(text: &[u8]) {
    let mut replay = Replay::new();
    for line in String::from_utf8_lossy(text).lines() {
        match replay.line(line) {
            Ok(step) => assert!(!step.to_string().is_empty()),
            Err(error) => {
                let ReplayError::Differs { journal, again, .. } = &error else {
                    check_message(&error, line.as_bytes());
                    continue;
                };
                assert_ne!(journal, again);
                assert!(!error.to_string().contains(char::is_control), "{error:?}");
            }
        }
    }
}

fn check_message(error: &(impl Display + Debug), text: &[u8]) {
    let (message, debug) = (error.to_string(), format!("{error:?}"));
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
    assert!(message.len() < LONGEST_MESSAGE + 8 * text.len(), "{message}");
    let secret = SECRET.as_str();
    assert!(!message.contains(secret) && !debug.contains(secret), "{message}\n{debug}");
}

const START: Now = Now { instant: perennial::Instant::from_millis(1_000), unix: EPOCH };

/// A line of a private key's PEM, which must appear in no output.
static SECRET: LazyLock<String> = LazyLock::new(|| {
    let pem = Pki::new().ours.to_pem();
    pem.lines().nth(1).expect("a key has such a line").to_owned()
});

/// Words that a fuzzer would take long to find: pending records with and without a key, lines of a journal, a
/// configuration of kubelet and a Node object.
static WORDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let template = Arc::new(Template::node("worker-1").with_ip_addresses([[192, 0, 2, 1].into()]));
    let refusal = Refusal { failure: perennial::Failure::Denied, failures: 3, retry_at: EPOCH.after(super::pki::DAY) };
    let renewal = Renewal { fingerprint: Fingerprint([0xab; 32]), rotate_at: EPOCH.after(super::pki::DAY) };
    let record = |key: Option<_>| {
        let pending = Pending {
            template: template.clone(),
            key: if key.is_some() { Key::Pending } else { Key::New },
            submitted: EPOCH,
            budget_whole: EPOCH.after(super::pki::DAY),
            refusal: key.is_none().then_some(refusal),
        };
        let (signer_name, request_name) = ("kubernetes.io/kubelet-serving".into(), "node-csr-1".into());
        let server = Some("https://127.0.0.1:6443".into());
        Record {
            server,
            signer_name,
            request_name,
            pending,
            renewal: key.is_none().then_some(renewal),
            request_digest: key.is_none().then(|| "digest".into()),
            outdated: key.is_none().then_some(renewal.fingerprint),
            turned_down: None,
            key,
        }
        .encode()
        .to_vec()
    };
    let mut words = vec![record(Some(Pki::new().ours)), record(None)];

    let setup = Setup { template: Some(template.clone()), ..Setup::default() };
    let mut machine = Arc::new(RotationMachine::new(setup, START));
    words.push(journal::begin("node", START, &machine).into_bytes());
    let id = perennial::RequestId::new(std::num::NonZeroU64::MIN);
    let certificate = Arc::new(mint::certificate(&template, 1, EPOCH, super::pki::DAY));
    let hint = RenewalHint { from: EPOCH.after(super::pki::DAY / 2), until: EPOCH.after(super::pki::DAY) };
    let hinted = Event::RenewalHinted { fingerprint: certificate.fingerprint, hint };
    let dated = Event::ServerDated { unix: START.unix };
    let issued = Event::CsrIssued { id, certificate };
    for event in [Event::Tick, issued, hinted, Event::CertWritten { id }, Event::RotateNow, dated] {
        let step = Transition::of(&mut machine, event, START);
        words.push(journal::step("node", &step).into_bytes());
    }
    words.push(b"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n".to_vec());
    words.push(br#"{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}"#.to_vec());
    words
});
