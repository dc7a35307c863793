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
