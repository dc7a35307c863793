//! Keys and tokens: `perennial` writes them to files of mode 0600 only, and to no output.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Ca, Signer, files, get, key_lines, perennial, run_arguments, start, start_logging};
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::Roots;
use perennial_rotation::{Identity, Record, Token};
use perennial_std::{Cancel, drive};
use perennial_tests::command::{mode, set_mode};
use rustix::process::Signal;
use tempfile::TempDir;

#[test]
fn files_replacing_world_readable_files_get_mode_0600() {
    let directory = TempDir::new().unwrap();
    let signer = Signer::start(directory.path(), &[]);
    let worker = directory.path().join("worker");
    fs::create_dir_all(worker.join("pki")).unwrap();
    set_mode(&worker.join("pki"), 0o755);
    // The kubeconfig names a pair that does not exist yet, so `run` replaces the file.
    let current = "pki/kubelet-client-current.pem";
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: ../signer/ca.crt}}}}]\n\
         users: [{{name: u, user: {{client-certificate: {current}, client-key: {current}}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n",
        signer.server
    );
    fs::write(worker.join("kubeconfig"), &text).unwrap();
    set_mode(&worker.join("kubeconfig"), 0o666);
    let output = perennial(directory.path(), &run_arguments(&["--once"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_ne!(fs::read_to_string(worker.join("kubeconfig")).unwrap(), text);
    for file in files(&worker).into_keys().filter(|path| path.is_file()) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

/// Faults of the server. Each makes client or server report an error about a request that has a credential, which must
/// not appear in the report.
const FAULTS: &str = "
rules:
- { match: { method: POST }, times: 1, fault: { answer: { status: 401 } } }
- { match: { method: POST }, times: 1, fault: { answer: { status: 503, body: html } } }
- { match: { method: POST }, times: 1, fault: garbage }
- { match: { method: GET }, times: 1, fault: { events: unreadable } }
";

/// Sends invalid requests that contain the token in path, query, body and header.
fn make_noise(signer: &Signer, directory: &Path, token: &str) {
    let mut stream = TcpStream::connect(signer.address()).unwrap();
    stream.write_all(format!("GET /{token} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n").as_bytes()).unwrap();
    // Plain HTTP to a TLS port: an alert, then the end.
    stream.read_to_end(&mut Vec::new()).unwrap();

    let roots = Roots::from_pem(&fs::read(directory.join("signer/ca.crt")).unwrap()).unwrap();
    let cluster = Arc::new(Cluster::from_url(&signer.server).unwrap().with_roots(roots));
    let collection = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let requests = [
        (Request::get(format!("/{token}?token={token}")), token.to_owned()),
        (Request::get(collection), format!("{token}0")),
        (Request::get(collection), token.to_uppercase()),
        (Request::post(collection, token.to_owned().into_bytes()), token.to_owned()),
        (Request::post(format!("{collection}/{token}"), vec![b'['; 1000]), token.to_owned()),
    ];
    for (request, token) in requests {
        let identity = Identity::Token(Token::new(&token).unwrap());
        let call = Call::new(request, cluster.clone(), identity, Limits::default());
        let answer = drive(call, &Cancel::default(), |_| {}).unwrap().unwrap();
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    let stranger = Arc::new(Ca::new().node(Duration::ZERO, Duration::from_secs(3600)));
    let call = Call::new(Request::get(collection), cluster, Identity::Certificate(stranger), Limits::default());
    assert!(drive(call, &Cancel::default(), |_| {}).unwrap().is_err());
}

#[test]
fn output_contains_no_secret_despite_faults() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("faults.yaml"), FAULTS).unwrap();
    let signer = Signer::start(path, &["--signing-duration", "3s", "--faults", "faults.yaml"]);
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
    let token = read("signer/bootstrap.token");

    let mut run = start_logging(path, &run_arguments(&["--json"]), "trace");
    run.event("rotated", 1);
    make_noise(&signer, path, &token);
    run.signal(Signal::TERM);
    let output = run.end();
    // A kubeconfig with a syntax error within its key.
    let admin = read("signer/admin.kubeconfig");
    let key_data = admin.lines().find_map(|line| line.trim().strip_prefix("client-key-data: ")).unwrap();
    let key_data = key_data.trim_matches('"');
    fs::write(path.join("broken"), admin.replace(key_data, &format!("{key_data}!"))).unwrap();
    let broken = ["run", "--once", "--node-name", "x", "--cert-dir", "x", "--kubeconfig", "broken"];
    let broken = start_logging(path, &broken, "trace").end();
    assert_eq!(broken.code, Some(2), "{broken:?}");
    // A second certificate, whose request stays pending, with all of its output.
    let more = ["--prefix", "proxy", "--signer-name", "example.com/proxies", "--log-format", "json", "--json"];
    let watched = ["--journal", "journal", "--metrics-listen", "127.0.0.1:0"];
    let mut waits = start_logging(path, &run_arguments(&[more.as_slice(), &watched].concat()), "trace");
    let address = waits.event("listening", 1)["address"].as_str().unwrap().to_owned();
    waits.event("waiting_for_approval", 1);
    let mut outputs: Vec<String> =
        ["/metrics", "/state", "/readyz", "/healthz", "/"].map(|path| get(&address, path)).into();
    for prefix in ["proxy", "kubelet-client"] {
        for json in [&["--json"][..], &[]] {
            let status = ["status", "--cert-dir", "worker/pki", "--prefix", prefix];
            let status = perennial(path, &[&status[..], json].concat());
            let verify = perennial(path, &[&["verify", "--cert-dir", "worker/pki"][..], json].concat());
            outputs.extend([status.stdout, status.stderr, verify.stdout, verify.stderr]);
        }
    }
    let record = ("record".into(), read("worker/pki/proxy-pending.json").into_bytes());
    let pending = key_lines(&[record].into());
    assert!(pending.len() > 1, "no key is pending");
    waits.signal(Signal::TERM);
    let waits = waits.end();
    assert!(waits.stderr.contains("SubmitCsr"), "{}", waits.stderr);
    outputs.push(read("journal"));
    outputs.push(perennial(path, &["replay", "--all", "journal"]).stdout);
    for output in [output, broken, waits] {
        outputs.extend([output.stdout, output.stderr]);
    }
    let outputs = outputs.concat();
    assert!(outputs.contains("401") && outputs.contains("the server answered"), "nothing went wrong: {outputs}");

    // The lines of keys only: certificates are public.
    let keys = key_lines(&files(&path.join("worker/pki")));
    let authority = key_lines(&[("ca.key".into(), read("signer/ca.key").into_bytes())].into());
    let secrets = ["PRIVATE KEY", token.split_once('.').unwrap().1, &key_data[..64]].map(str::to_owned);
    let secrets: Vec<String> = secrets.into_iter().chain(pending).chain(keys).chain(authority).collect();
    let outputs = outputs.to_lowercase();
    for secret in secrets {
        assert!(!outputs.contains(&secret.to_lowercase()), "a secret was found");
    }
}

/// `key_lines` must find the key in a pending record. Otherwise, the search for secrets in the output would prove
/// nothing.
#[test]
fn key_lines_finds_keys_in_pending_record() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let _signer = Signer::start(path, &["--approve", "manual"]);
    let mut run = start(path, &run_arguments(&["--json"]));
    run.event("waiting_for_approval", 1);
    let pki = path.join("worker/pki");
    let record = files(&pki);
    let lines = key_lines(&record);
    let text = String::from_utf8(record[&pki.join("kubelet-client-pending.json")].clone()).unwrap();
    let record = Record::decode(text.as_bytes()).unwrap();
    let pem = record.key.unwrap().to_pem();
    let whole: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    assert_eq!(lines, whole);
}
