//! Trust bundles of a certificate list.

use super::*;
use crate::support::Ca;
use perennial_pki::Roots;

fn new_ca() -> String {
    Ca::new().authority.certificate_pem().to_owned()
}

/// Writes a list with the node's certificate, and trust bundles with these lines.
fn write_list(directory: &Path, bundles: &[&str]) {
    List::new(directory).with_node().write();
    let mut text = fs::read_to_string(directory.join("list.yaml")).unwrap();
    if !bundles.is_empty() {
        text += "trustBundles:\n";
    }
    text.extend(bundles.iter().map(|lines| format!("- {{{lines}}}\n")));
    fs::write(directory.join("list.yaml"), text).unwrap();
}

fn has(path: &Path, pem: &str) -> bool {
    fs::read(path).is_ok_and(|found| Roots::from_pem(&found).unwrap() == Roots::from_pem(pem.as_bytes()).unwrap())
}

#[test]
fn trust_bundles_follow_reload_of_list() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &[]);
    let [mesh, company, next] = [(); 3].map(|()| new_ca());
    signer.put_trust_bundle("example.com:mesh:a", "example.com/mesh", &mesh);
    signer.put_trust_bundle("company", "", &company);
    let at = |name: &str| directory.join(name);
    let of_mesh = format!(
        "signer: example.com/mesh, path: {}, identity: {{certificate: node}}, access: {{mode: '0444'}}",
        at("mesh.pem").display()
    );
    let admin = at("signer/admin.kubeconfig").display().to_string();
    let of_company = format!("name: company, path: {}, identity: {{kubeconfig: {admin}}}", at("company.pem").display());
    write_list(directory, &[&of_mesh]);
    let mut run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0"]));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    until("the first file", || has(&at("mesh.pem"), &mesh).then_some(()));
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(at("mesh.pem")).unwrap()) & 0o7777, 0o444);

    write_list(directory, &[&of_mesh, &of_company]);
    run.signal(Signal::HUP);
    until("the second file", || has(&at("company.pem"), &company).then_some(()));
    let paths = || {
        get(&address, "/state").matches("/company.pem\"").count()
            + get(&address, "/state").matches("/mesh.pem\"").count()
    };
    until("both in the state", || (paths() == 2).then_some(()));
    signer.put_trust_bundle("example.com:mesh:a", "example.com/mesh", &next);
    until("the next CA", || has(&at("mesh.pem"), &next).then_some(()));
    // The file was written for each change, and not again by the reload.
    let events_of_mesh =
        || run.events("trust_bundle").iter().filter(|event| event["signer"] == "example.com/mesh").count();
    // The event follows the file.
    until("the event", || (events_of_mesh() >= 2).then_some(()));
    assert_eq!(events_of_mesh(), 2);

    write_list(directory, &[&of_company]);
    run.signal(Signal::HUP);
    run.event("reloaded", 2);
    signer.put_trust_bundle("example.com:mesh:a", "example.com/mesh", &mesh);
    signer.put_trust_bundle("company", "", &next);
    until("the followed file", || has(&at("company.pem"), &next).then_some(()));
    assert!(has(&at("mesh.pem"), &next), "a removed trust bundle is not followed, and its file stays");
    assert_eq!(paths(), 1);
}

#[test]
fn trust_bundle_without_kubeconfig_disturbs_no_certificate() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let at = directory.display();
    write_list(directory, &[&format!("name: a, path: {at}/a.pem, identity: {{kubeconfig: {at}/missing}}")]);
    let mut run = start(directory, &run_list(&[]));
    run.event("issued", 1);
    until("the report", || {
        run.stderr().contains("a.pem: the ClusterTrustBundle a: ").then(|| assert!(run.stderr().contains("missing")))
    });
    drop(run);
    let ended = perennial(directory, &run_list(&["--once"]));
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("trust bundle") && ended.stderr.contains("missing"), "{}", ended.stderr);
}

/// The trust bundles in a JSON object.
fn bundles_in(text: &str) -> Vec<Value> {
    let object: Value = serde_json::from_str(text).unwrap();
    object["trust_bundles"].as_array().unwrap().clone()
}

#[test]
fn status_verify_state_and_page_agree_about_trust_bundles() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &[]);
    signer.put_trust_bundle("example.com:mesh:a", "example.com/mesh", &new_ca());
    let path = directory.join("mesh.pem");
    let bundle = format!("signer: example.com/mesh, path: {}, identity: {{certificate: node}}", path.display());
    write_list(directory, &[&bundle]);
    let list_of = |command: &str, more: &[&str]| {
        perennial(directory, &[[command, "--certificates", "list.yaml"].as_slice(), more].concat())
    };
    let verified = list_of("verify", &[]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.stdout.contains("mesh.pem, which is not written yet"), "{verified:?}");

    let mut run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0"]));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    event_of(&run, "node", "issued", 1);
    run.event("trust_bundle", 1);
    let status = list_of("status", &["--json"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    let (stated, state) = (bundles_in(&status.stdout), get(&address, "/state"));
    let reported = bundles_in(state.split_once("\r\n\r\n").unwrap().1);
    for field in ["path", "signer", "name", "labels", "certificates", "changed", "error", "remedy"] {
        assert_eq!(stated[0][field], reported[0][field], "{field}");
    }
    let changed = stated[0]["changed"].as_str().unwrap();
    let text = list_of("status", &[]).stdout;
    let page = get(&address, "/");
    assert!(text.contains(&format!("changed     {changed}\n")) && page.contains(changed), "{text}{page}");
    assert!(text.contains("bundle      the ClusterTrustBundles of signer example.com/mesh\n"), "{text}");
    assert!(text.contains("CAs         1: CN=") && text.contains("state       good: written\n"), "{text}");
    let verified = list_of("verify", &[]);
    assert!(verified.stdout.contains(&format!("which has 1 CA certificate since {changed}")), "{verified:?}");
    stop(run);

    // The time is that of the file, also after a restart, and while the server is away.
    signer.stop();
    let mut run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0"]));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    let reported = until("the problem", || {
        let state = get(&address, "/state");
        let reported = bundles_in(state.split_once("\r\n\r\n").unwrap().1);
        reported[0]["error"].is_string().then_some(reported)
    });
    assert_eq!((&reported[0]["changed"], &reported[0]["certificates"]), (&changed.into(), &stated[0]["certificates"]));
    assert!(reported[0]["remedy"].as_str().unwrap().contains("kubectl get clustertrustbundles"), "{reported:?}");
    assert!(run.events("trust_bundle").is_empty());
    stop(run);

    fs::remove_file(&path).unwrap();
    let status = list_of("status", &[]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(
        status.stdout.contains("state       the file is not written yet\n  to do     start `perennial run`"),
        "{status:?}"
    );
    assert!(status.stderr.contains("mesh.pem: the file is not written yet"), "{status:?}");
}

#[test]
fn verify_reports_identity_of_trust_bundle_that_cannot_be_read() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &[]);
    let at = directory.display();
    write_list(directory, &[&format!("name: a, path: {at}/a.pem, identity: {{kubeconfig: {at}/missing}}")]);
    let verified = perennial(directory, &["verify", "--certificates", "list.yaml", "--json"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let bundle = &bundles_in(&verified.stdout)[0];
    assert_eq!(bundle["good"], false);
    let why = bundle["faults"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("could not read the bundles: ") && why.contains("missing"), "{why}");
}
