//! Names that contain terminal control characters or forged log lines are escaped in all output.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Process, Signer, get, perennial, put_in_use, run_arguments, start, until};
use perennial::{Template, Validity};
use perennial_dev::Decision;
use perennial_kubernetes::client::Request;
use perennial_pki::{
    Credential, Issuer, KeyAlgorithm, KeyPair, KeyUsage, Terms, Usage, certificate_request, read_request, self_signed,
};
use perennial_rotation::clock;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A common name with a forged log line, a terminal colour in two encodings, a change of text direction, DEL, and an
/// element of HTML.
const HOSTILE: &str = "system:node:w\nERROR forged\r\u{1b}[31m\u{9b}31m\u{202e}\u{7f}<img src=\"'&\">";

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A pair whose certificate has the hostile name twice in its subject. perennial makes no CSR with such a name, so the
/// test writes the name into a harmless CSR.
fn hostile_pair() -> Credential {
    let (now, hour) = (clock::now().unix, Duration::from_secs(3600));
    let validity = Validity::new(now.before(hour), now.after(hour)).unwrap();
    let key = || Arc::new(KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap());
    let (ca_key, key) = (key(), key());
    let ca = self_signed("a hostile CA", &ca_key, &[1], validity).unwrap();
    let issuer = Issuer::new(Credential::new(ca, ca_key).unwrap()).unwrap();
    // As long as the hostile name, and with an underscore a UTF8String, too.
    let harmless = "_".repeat(HOSTILE.len());
    let template = Template::new(&*harmless).with_organizations([&*harmless]);
    let mut request = read_request(certificate_request(&template, &key).unwrap().pem.as_bytes()).unwrap();
    let places: Vec<usize> = (0..request.subject_der.len())
        .filter(|at| request.subject_der[*at..].starts_with(harmless.as_bytes()))
        .collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|at| request.subject_der[*at..][..HOSTILE.len()].copy_from_slice(HOSTILE.as_bytes()));
    let terms = Terms {
        serial: &[2],
        validity,
        key_usages: &[KeyUsage::DigitalSignature],
        extended_key_usages: &[Usage::ClientAuth],
    };
    Credential::new(issuer.issue(&request, &terms).unwrap(), key).unwrap()
}

/// Checks the output `text`: no character controls a terminal, and no line is the forged log line. If a check fails,
/// the panic names `of`, the source of the output.
fn check(of: &str, text: &str) {
    let obeyed = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(obeyed), "{of}: {text:?}");
    assert!(!text.lines().any(|line| line.trim_start().starts_with("ERROR forged")), "{of}: {text}");
}

fn prepared() -> TempDir {
    let directory = TempDir::new().unwrap();
    let pki = directory.path().join("worker/pki");
    put_in_use(&pki, hostile_pair().to_pem().as_bytes());
    // A file with a hostile name.
    fs::write(pki.join("kubelet-client-\u{1b}[31m\nERROR forged.pem.bad"), "").unwrap();
    directory
}

#[test]
fn hostile_names_are_escaped_by_status_and_verify() {
    let directory = prepared();
    for command in ["status", "verify"] {
        let words = perennial(directory.path(), &[command, "--cert-dir", "worker/pki"]);
        check(command, &words.stdout);
        check(command, &words.stderr);
        let json = perennial(directory.path(), &[command, "--cert-dir", "worker/pki", "--json"]);
        check(command, &json.stdout);
        // A JSON parser returns the name unchanged.
        let value: Value = serde_json::from_str(&json.stdout).unwrap();
        if command == "status" {
            assert!(words.stdout.contains(r"CN=system:node:w\nERROR forged\r\u{1b}[31m\u{9b}31m\u{202e}\u{7f}"));
            assert_eq!(value["common_name"], HOSTILE);
        }
    }
}

/// Starts a node. Denies its first request with a hostile message, and approves the second.
fn run_with_hostile_approver(path: &Path, more: &[&str]) -> (Signer, Process) {
    let signer = Signer::start(path, &["--approve", "manual"]);
    let arguments = [more, &["--json", "--retry-refused", "10ms-20ms"]].concat();
    let mut run = start(path, &run_arguments(&arguments));
    let csr = |event: &Value| event["csr"].as_str().unwrap().to_owned();
    let resource = format!("{CSRS}/{}", csr(&run.event("waiting_for_approval", 1)));
    let mut object = signer.administer(Request::get(resource.clone()));
    object["status"]["conditions"] =
        json!([{ "type": "Denied", "status": "True", "reason": "Hostile", "message": HOSTILE }]);
    signer.administer(Request::put(resource + "/approval", object.to_string().into_bytes()));
    signer.decide(&csr(&run.event("waiting_for_approval", 2)), Decision::Approve);
    // `rotated`, if the prepared pair of another name counts as the certificate before.
    until("certificate", || run.events("issued").pop().or_else(|| run.events("rotated").pop()));
    (signer, run)
}

#[test]
fn hostile_names_are_escaped_in_log_and_metrics_and_journal() {
    let directory = prepared();
    let path = directory.path();
    let more = ["--metrics-listen", "127.0.0.1:0", "--journal", "journal"];
    let (_signer, mut run) = run_with_hostile_approver(path, &more);
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    run.logged("Hostile: system:node:w");
    for page in ["/metrics", "/state", "/readyz", "/"] {
        let answer = get(&address, page);
        check(page, answer.split_once("\r\n\r\n").unwrap().1);
    }
    // The approver's message: the certificate with the hostile name was replaced.
    let page = get(&address, "/");
    assert!(!page.contains("<img"), "{page}");
    check("log", &run.stderr());
    check("events", &run.stdout());
    check("journal", &fs::read_to_string(path.join("journal")).unwrap());
    for arguments in [["replay", "journal", "--all"].as_slice(), &["replay", "journal", "--json"]] {
        let story = perennial(path, arguments);
        assert_eq!(story.code, Some(0), "{story:?}");
        check("replay", &story.stdout);
    }
}

#[test]
fn hostile_names_in_a_journal_are_escaped_by_replay() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let (_signer, run) = run_with_hostile_approver(path, &["--journal", "journal"]);
    drop(run);
    // JSON may contain all other characters of the name unescaped.
    let name = HOSTILE.replace('\n', r"\n").replace('\r', r"\r").replace('\u{1b}', r"\u001b").replace('"', "\\\"");
    let journal = fs::read_to_string(path.join("journal")).unwrap();
    fs::write(path.join("hostile"), journal.replace("system:node:worker", &name)).unwrap();
    for arguments in [["replay", "hostile", "--all"].as_slice(), &["replay", "hostile", "--all", "--json"]] {
        let story = perennial(path, arguments);
        check("replay", &story.stdout);
        check("replay", &story.stderr);
        assert!(story.stdout.contains("ERROR forged"), "{story:?}");
    }
}
