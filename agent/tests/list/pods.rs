//! Members that are certificates of pods, in volumes.

use super::*;
use crate::support::Ca;
use perennial_dev::{PodDecision, PodSigner};
use perennial_kubernetes::PodIdentity;
use perennial_kubernetes::client::Request;
use perennial_pki::{Credential, KeyAlgorithm, Roots};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1beta1/namespaces/shop/podcertificaterequests";

/// Writes a list with the node's certificate, and two certificates of a pod in one volume.
fn write_list(directory: &Path, pod: &PodIdentity) {
    let at = directory.display();
    let PodIdentity { namespace, name, uid, service_account_name, service_account_uid, node_name, node_uid } = pod;
    let common = format!(
        "pod: {{namespace: {namespace}, name: {name}, uid: {uid}, serviceAccountName: {service_account_name}, \
         serviceAccountUID: {service_account_uid}}}, node: {{name: {node_name}, uid: {node_uid}}}, \
         identity: {{certificate: node}}"
    );
    let volume = |files: &str| format!("store: {{volume: {{path: {at}/volume, {files}, state: {at}/state}}}}");
    let hook = format!("onRotated: {{run: [sh, -c, 'echo $PERENNIAL_FILE >> {at}/runs']}}");
    let members = [
        format!("- {{name: mesh, signer: example.com/mesh, {common}, {hook}, {}}}\n", volume("bundle: mesh.pem")),
        format!(
            "- {{name: database, signer: example.com/database, keyType: ED25519, access: {{mode: 0640}}, {common}, {}}}\n",
            volume("key: database/tls.key, certificateChain: database/tls.crt")
        ),
    ];
    List::new(directory).with_node().write();
    let text = fs::read_to_string(directory.join("list.yaml")).unwrap();
    fs::write(directory.join("list.yaml"), text + &members.concat()).unwrap();
}

/// The pair in the bundle of `mesh`.
fn bundle(directory: &Path) -> Credential {
    let text = fs::read(directory.join("volume/mesh.pem")).unwrap();
    assert!(text.starts_with(b"-----BEGIN PRIVATE KEY-----"));
    Credential::from_pem(&text).unwrap()
}

/// The pair of `database`.
fn files(directory: &Path) -> Credential {
    let read = |name: &str| fs::read(directory.join("volume/database").join(name)).unwrap();
    Credential::from_pem(&[read("tls.key"), read("tls.crt")].concat()).unwrap()
}

fn serial_of(run: &Process, name: &str, event: &str, count: usize) -> Value {
    event_of(run, name, event, count)["serial"].clone()
}

fn pod_requests(signer: &Signer) -> usize {
    signer.administer(Request::get(REQUESTS))["items"].as_array().unwrap().len()
}

/// The states of the certificates of a signer in kubelet's metric that any certificate has, with their number.
fn states(address: &str, signer: &str) -> Vec<(String, u64)> {
    let page = get(address, "/metrics");
    let prefix = format!("kubelet_podcertificate_states{{signer_name=\"{signer}\",state=\"");
    let all: Vec<(String, u64)> = page
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "))
        .map(|(state, count)| (state.to_owned(), count.parse().unwrap()))
        .collect();
    assert_eq!(all.len(), 6, "{page}");
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// The state of a pod's certificate in `/state`.
fn pod_state(address: &str, name: &str) -> Value {
    let state = get(address, "/state");
    let state: Value = serde_json::from_str(state.split_once("\r\n\r\n").unwrap().1).unwrap();
    state["certificates"][name]["pod_state"].clone()
}

#[test]
fn certificates_of_pod_are_kept_in_one_volume() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let pod = signer.cluster().put_pod("shop", "web-0", "web", "worker").unwrap();
    write_list(directory, &pod);
    let mut run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0", "--journal", "journal"]));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    ["node", "mesh", "database"].iter().for_each(|name| drop(event_of(&run, name, "resting", 1)));
    assert_eq!(serial_of(&run, "mesh", "issued", 1), bundle(directory).chain().serial());
    assert_eq!(serial_of(&run, "database", "issued", 1), files(directory).chain().serial());
    let service_account = ["spiffe://cluster.local/ns/shop/sa/web"];
    assert_eq!(bundle(directory).chain().uris().collect::<Vec<_>>(), service_account);
    assert!(
        fs::read_link(directory.join("volume/..data")).is_ok()
            && fs::read_link(directory.join("volume/mesh.pem")).is_ok()
    );
    assert_eq!(perennial_tests::command::mode(&directory.join("volume/database/tls.key")), 0o640);
    assert!(directory.join("state").join(&pod.uid).join("mesh/mesh-current.pem").exists());
    // The hint of the signer: after two thirds of the lifetime.
    let resting = event_of(&run, "mesh", "resting", 1);
    let facts = bundle(directory).chain().certificate().validity;
    let point: perennial::UnixTime = resting["rotate_at"].as_str().unwrap().parse().unwrap();
    assert!(point >= facts.not_before().after(facts.lifetime() * 2 / 3), "{point} {facts:?}");

    // A run that has not begun when the next certificate is there would be for that one.
    hook_runs(directory, 1);
    run.signal(Signal::USR1);
    for (name, pair) in [("mesh", bundle as fn(&Path) -> Credential), ("database", files)] {
        assert_eq!(serial_of(&run, name, "rotated", 1), pair(directory).chain().serial());
    }
    let runs = hook_runs(directory, 2);
    assert!(runs.lines().all(|line| Path::new(line) == directory.join("volume/mesh.pem")), "{runs}");
    // Files that another program has removed are written again.
    fs::remove_dir_all(directory.join("volume")).unwrap();
    run.signal(Signal::HUP);
    until("files", || {
        (directory.join("volume/mesh.pem").exists() && directory.join("volume/database/tls.crt").exists()).then_some(())
    });
    for command in ["status", "verify"] {
        let good = perennial(directory, &[command, "--certificates", "list.yaml", "--json"]);
        assert_eq!(good.code, Some(0), "{good:?}");
    }
    let log = run.stderr();
    assert!(log.contains("mesh: a new certificate is in use") && !log.contains("common_name=\"\""), "{log}");
    let ready = get(&address, "/readyz");
    assert!(ready.contains(" 200 OK"), "{ready}");
    assert!(get(&address, "/").contains("<h2>database</h2>"));
    assert_eq!(states(&address, "example.com/database"), [("fresh".into(), 1)]);
    assert_eq!((pod_state(&address, "database"), pod_state(&address, "node")), ("fresh".into(), Value::Null));

    // A member that is removed keeps its files. One whose file moves keeps its certificate.
    let list = fs::read_to_string(directory.join("list.yaml")).unwrap();
    let without = list.lines().filter(|line| !line.contains("name: database")).map(|line| format!("{line}\n"));
    let moved = without.collect::<String>().replace("bundle: mesh.pem", "bundle: moved.pem");
    let (before, requests) = (bundle(directory), pod_requests(&signer));
    fs::write(directory.join("list.yaml"), moved).unwrap();
    run.signal(Signal::HUP);
    let pem = |name: &str| fs::read(directory.join("volume").join(name));
    until("moved file", || {
        pem("moved.pem").ok().filter(|text| Credential::from_pem(text).unwrap().chain() == before.chain())
    });
    assert_eq!((pem("moved.pem").unwrap(), pod_requests(&signer)), (pem("mesh.pem").unwrap(), requests));
    assert!(directory.join("volume/database/tls.key").exists());
    stop(run);
    let story = perennial(directory, &["replay", "journal"]);
    assert_eq!(story.code, Some(0), "{story:?}");
    assert!(story.stdout.contains("0 different"), "{story:?}");
    let sentences = [
        "for the names that the signer chooses,",
        " for URI=spiffe://cluster.local/ns/shop/sa/web, valid",
        "hint: rotate ",
    ];
    assert!(sentences.iter().all(|sentence| story.stdout.contains(sentence)), "{story:?}");
    assert!(!story.stdout.contains("RenewalHinted"), "{story:?}");

    // A restart completes the volume, and requests nothing.
    fs::write(directory.join("list.yaml"), list).unwrap();
    fs::write(directory.join("volume/mesh.pem"), "damaged").unwrap();
    let status = perennial(directory, &["status", "--certificates", "list.yaml"]);
    assert!(status.code == Some(1) && status.stderr.contains("mesh: problems found"), "{status:?}");
    assert!(status.stdout.contains("volume/mesh.pem: "), "{status:?}");
    let once = perennial(directory, &run_list(&["--once"]));
    assert_eq!((once.code, pod_requests(&signer)), (Some(0), requests), "{once:?}");
    assert_eq!(bundle(directory).chain(), before.chain());
}

#[test]
fn next_pod_of_name_gets_certificate_of_its_own() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let first = signer.cluster().put_pod("shop", "web-0", "web", "worker").unwrap();
    write_list(directory, &first);
    let run = start(directory, &run_list(&[]));
    let before = serial_of(&run, "mesh", "issued", 1);
    event_of(&run, "database", "issued", 1);
    assert!(signer.cluster().delete_pod("shop", "web-0"));
    let next = signer.cluster().put_pod("shop", "web-0", "web", "worker").unwrap();
    assert_ne!(first.uid, next.uid);
    write_list(directory, &next);
    run.signal(Signal::HUP);
    let after = serial_of(&run, "mesh", "issued", 2);
    event_of(&run, "database", "issued", 2);
    assert_ne!(before, after);
    assert_eq!(after, bundle(directory).chain().serial());
    assert_eq!(pod_requests(&signer), 2, "the server has deleted those of the first pod");
    stop(run);
}

#[test]
fn denied_pod_certificate_is_reported_and_requested_again() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let pod = signer.cluster().put_pod("shop", "web-0", "web", "worker").unwrap();
    let denial = PodDecision::Deny("PodUnknown".into(), "no such workload".into());
    signer.cluster().set_pod_signer("example.com/mesh", PodSigner { decision: denial, ..PodSigner::default() });
    write_list(directory, &pod);
    let list = fs::read_to_string(directory.join("list.yaml")).unwrap();
    let list = list.replace("name: mesh,", "name: mesh, timing: {retryRefused: 1s-2s},");
    fs::write(directory.join("list.yaml"), list).unwrap();
    let mut run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0"]));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    event_of(&run, "database", "issued", 1);
    let trouble = event_of(&run, "mesh", "trouble", 1);
    assert!(trouble["reason"].as_str().unwrap().contains("no such workload"), "{trouble}");
    until("denied", || (states(&address, "example.com/mesh") == [("denied".into(), 1)]).then_some(()));
    signer.cluster().set_pod_signer("example.com/mesh", PodSigner::default());
    assert_eq!(serial_of(&run, "mesh", "issued", 1), bundle(directory).chain().serial());
    until("fresh", || (pod_state(&address, "mesh") == "fresh").then_some(()));
    stop(run);
}

#[test]
fn refused_key_is_forgotten_when_key_type_changes() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let pod = signer.cluster().put_pod("shop", "web-0", "web", "worker").unwrap();
    let accepted_keys = vec![KeyAlgorithm::Ed25519];
    signer.cluster().set_pod_signer("example.com/mesh", PodSigner { accepted_keys, ..PodSigner::default() });
    write_list(directory, &pod);
    let run = start(directory, &run_list(&[]));
    let trouble = event_of(&run, "mesh", "trouble", 1);
    assert!(trouble["reason"].as_str().unwrap().contains("ED25519"), "{trouble}");
    // Without the change, the next request would follow after five minutes.
    let list = fs::read_to_string(directory.join("list.yaml")).unwrap();
    fs::write(directory.join("list.yaml"), list.replace("name: mesh,", "name: mesh, keyType: ED25519,")).unwrap();
    run.signal(Signal::HUP);
    assert_eq!(serial_of(&run, "mesh", "issued", 1), bundle(directory).chain().serial());
    assert_eq!(bundle(directory).key().algorithm(), KeyAlgorithm::Ed25519);

    // Other information for the signer is in the next certificate, at once.
    let list = fs::read_to_string(directory.join("list.yaml")).unwrap();
    let annotated = list.replace("name: mesh,", "name: mesh, userAnnotations: {example.com/role: reader},");
    fs::write(directory.join("list.yaml"), annotated).unwrap();
    run.signal(Signal::HUP);
    event_of(&run, "mesh", "rotated", 1);
    let requests = signer.administer(Request::get(REQUESTS));
    let is_annotated = |request: &Value| request["spec"]["unverifiedUserAnnotations"]["example.com/role"] == "reader";
    assert_eq!(requests["items"].as_array().unwrap().iter().filter(|request| is_annotated(request)).count(), 1);
    stop(run);
}

/// Edits of the list between two runs do what they do with SIGHUP.
#[test]
fn changes_between_two_runs_end_refusals_and_replace_certificates() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let pod = signer.cluster().put_pod("shop", "web-0", "web", "worker").unwrap();
    let accepted_keys = vec![KeyAlgorithm::EcdsaP256];
    signer.cluster().set_pod_signer("example.com/database", PodSigner { accepted_keys, ..PodSigner::default() });
    write_list(directory, &pod);
    let run = start(directory, &run_list(&[]));
    event_of(&run, "database", "trouble", 1);
    let before = serial_of(&run, "mesh", "issued", 1);
    stop(run);
    // Without a change, the certificate would be served, and the refused one be requested after five minutes.
    let list = fs::read_to_string(directory.join("list.yaml")).unwrap();
    let changed = list.replace("keyType: ED25519", "keyType: p256").replace("name: mesh,", "name: mesh, lifetime: 2h,");
    fs::write(directory.join("list.yaml"), changed).unwrap();
    let run = start(directory, &run_list(&[]));
    assert_eq!(serial_of(&run, "database", "issued", 1), files(directory).chain().serial());
    assert_eq!(files(directory).key().algorithm(), KeyAlgorithm::EcdsaP256);
    let after = serial_of(&run, "mesh", "rotated", 1);
    assert_eq!(after, bundle(directory).chain().serial());
    assert_ne!(after, before);
    let validity = bundle(directory).chain().certificate().validity;
    assert!(validity.lifetime() <= Duration::from_secs(2 * 3600), "{validity:?}");
    stop(run);
}

#[test]
fn trust_bundle_is_in_volume_beside_certificates() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let pod = signer.cluster().put_pod("shop", "web-0", "web", "worker").unwrap();
    let ca = || Ca::new().authority.certificate_pem().to_owned();
    let (first, next) = (ca(), ca());
    signer.put_trust_bundle("company", "", &first);
    write_list(directory, &pod);
    let path = directory.join("volume/trust/ca.pem");
    let bundle_of = format!("- {{name: company, path: {}, identity: {{certificate: node}}}}\n", path.display());
    let list = fs::read_to_string(directory.join("list.yaml")).unwrap();
    fs::write(directory.join("list.yaml"), format!("{list}trustBundles:\n{bundle_of}")).unwrap();
    let run = start(directory, &run_list(&[]));
    let has = |pem: &str| {
        let found = fs::read(&path).ok().and_then(|found| Roots::from_pem(&found).ok());
        (found == Roots::from_pem(pem.as_bytes()).ok()).then_some(())
    };
    until("trust bundle", || has(&first));
    ["mesh", "database"].iter().for_each(|name| drop(event_of(&run, name, "issued", 1)));
    assert_eq!(fs::read_link(directory.join("volume/trust")).unwrap(), Path::new("..data/trust"));
    signer.put_trust_bundle("company", "", &next);
    until("next trust bundle", || has(&next));
    // A rotation carries it over.
    run.signal(Signal::USR1);
    ["mesh", "database"].iter().for_each(|name| drop(event_of(&run, name, "rotated", 1)));
    assert_eq!(event_of(&run, "mesh", "rotated", 1)["serial"], bundle(directory).chain().serial());
    assert!(has(&next).is_some());
    stop(run);
}
