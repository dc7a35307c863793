//! SIGHUP with a certificate list.

use super::*;
use crate::support::steps_until_rest;
use perennial_rotation::clock;
use std::os::unix::fs::{PermissionsExt as _, symlink};

#[test]
fn sighup_changes_only_members_that_differ() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let base = || List::new(directory).with_node().with_other("stays", "mesh");
    let changed = |name: &str| {
        format!("signer: example.com/mesh, commonName: changes, dnsNames: [{name}], identity: {{certificate: node}}")
    };
    base().with("changes", &changed("a.example")).with_other("goes", "mesh").write();
    let mut run = start(directory, &run_list(&["--journal", "journal"]));
    let members = ["node", "stays", "changes", "goes"];
    let points = members.map(|name| event_of(&run, name, "resting", 1)["rotate_at"].clone());
    let before = steps_until_rest(&directory.join("journal"), "stays");

    base().with("changes", &changed("b.example")).with_other("new", "etcd").write();
    run.signal(Signal::HUP);
    let reloaded = run.event("reloaded", 1);
    let lists = ["added", "changed", "removed"].map(|kind| reloaded[kind][0].as_str().unwrap().to_owned());
    assert_eq!(lists, ["new", "changes", "goes"]);
    event_of(&run, "new", "issued", 1);
    event_of(&run, "changes", "rotated", 1);
    assert!(current(directory, "changes").chain().certificate().names.dns_names().eq(["b.example"]));
    // The files of the removed member stay.
    drop(current(directory, "goes"));

    // A list with an error changes nothing.
    let requests = signer.requests().len();
    fs::write(directory.join("list.yaml"), "apiVersion: perennial/v1\ncertificates: [{name: 1_}]").unwrap();
    run.signal(Signal::HUP);
    let trouble = run.event("trouble", 1);
    assert!(trouble["reason"].as_str().unwrap().starts_with("reload failed, keeping the current"), "{trouble}");
    base().with("changes", &changed("b.example")).with_other("new", "etcd").write();
    run.signal(Signal::HUP);
    let reloaded = run.event("reloaded", 2);
    assert!(["added", "changed", "removed"].iter().all(|kind| reloaded[kind] == Value::Array(vec![])), "{reloaded}");
    assert_eq!(signer.requests().len(), requests);

    // Untouched: no step, no request, and the rotation point of before.
    assert_eq!(steps_until_rest(&directory.join("journal"), "stays"), before);
    let points_now = run.events("resting").into_iter().filter(|event| event["of"] == "stays");
    let points_now: Vec<_> = points_now.map(|event| event["rotate_at"].clone()).collect();
    assert_eq!(points_now, [points[1].clone()]);

    // A pair that another program has put there is used from then on.
    let mut ca = crate::support::Ca::new();
    let better =
        ca.authority.client_credential("stays", &[], &mut ca.random, clock::now().unix, Duration::from_secs(9000));
    let better = better.unwrap();
    let file = directory.join("stays/stays-2038-01-01-00-00-00-000.pem");
    fs::write(&file, better.to_pem().as_bytes()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(directory.join("stays/stays-current.pem")).unwrap();
    symlink(&file, directory.join("stays/stays-current.pem")).unwrap();
    run.signal(Signal::HUP);
    let rotated = event_of(&run, "stays", "rotated", 1);
    assert_eq!(rotated["serial"], better.chain().serial());

    // A removed member that is added again continues with its files.
    base().with("changes", &changed("b.example")).with_other("new", "etcd").with_other("goes", "mesh").write();
    run.signal(Signal::HUP);
    event_of(&run, "goes", "resting", 2);
    assert_eq!(signer.requests().len(), requests);
    stop(run);
}

#[test]
fn moved_files_of_member_get_certificate_at_new_place() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    List::new(directory).with_node().with_other("proxy", "mesh").write();
    let run = start(directory, &run_list(&[]));
    event_of(&run, "proxy", "issued", 1);
    let text = fs::read_to_string(directory.join("list.yaml")).unwrap();
    fs::write(directory.join("list.yaml"), text.replace("/proxy, prefix", "/elsewhere, prefix")).unwrap();
    run.signal(Signal::HUP);
    event_of(&run, "proxy", "issued", 2);
    assert!(
        directory.join("elsewhere/proxy-current.pem").exists() && directory.join("proxy/proxy-current.pem").exists()
    );
    stop(run);
}

#[test]
fn status_has_rotation_point_of_run_after_signer_changes() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    List::new(directory).with_node().with_other("proxy", "mesh").write();
    let run = start(directory, &run_list(&[]));
    let before = event_of(&run, "proxy", "resting", 1)["rotate_at"].clone();
    List::new(directory).with_node().with_other("proxy", "etcd").write();
    run.signal(Signal::HUP);
    let after = event_of(&run, "proxy", "resting", 2)["rotate_at"].clone();
    assert_ne!(after, before);
    let status = perennial(directory, &["status", "--certificates", "list.yaml", "--json"]);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["certificates"]["proxy"]["rotate_at"], after);
    assert_eq!(signer.requests().len(), 2);
    stop(run);
}

#[test]
fn certificate_gets_its_first_name_back_after_two_changes() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    let at = directory.display();
    let write = |name: &str| {
        let fields = format!("signer: example.com/mesh, commonName: {name}, identity: {{certificate: node}}");
        List::new(directory).with_node().with("web", &fields).write();
        let text = fs::read_to_string(directory.join("list.yaml")).unwrap();
        let bundle = format!("- {{name: site, {fields}, store: {{bundle: {{file: {at}/site.pem}}}}}}\n");
        fs::write(directory.join("list.yaml"), text + &bundle).unwrap();
    };
    write("first");
    let run = start(directory, &run_list(&[]));
    for (count, name) in ["first", "second", "first"].iter().enumerate() {
        if count > 0 {
            write(name);
            run.signal(Signal::HUP);
        }
        for member in ["web", "site"] {
            until("resting", || {
                (run.events("resting").iter().filter(|event| event["of"] == member).count() > count).then_some(())
            });
        }
        let site = Credential::from_pem(&fs::read(directory.join("site.pem")).unwrap()).unwrap();
        for credential in [site, current(directory, "web")] {
            assert_eq!(credential.chain().certificate().common_name(), *name);
        }
    }
    assert_eq!(signer.requests().len(), 7);
    stop(run);
}

#[test]
fn member_removed_during_its_start_ends_and_starts_again() {
    for is_added_during_start in [true, false] {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        let _signer = Signer::start(directory, &["--other-signers", "true"]);
        let base = || List::new(directory).with_node();
        let hook = "signer: example.com/mesh, commonName: slow, identity: {certificate: node}, \
                    onRotated: {run: ['true']}";
        let both = || base().with("slow", hook).write();
        both();
        // The start writes the record of the hook.
        let mut run = start_with_fault(directory, &[], ("HANG_WRITE", "/slow/slow-hook"));
        event_of(&run, "node", "issued", 1);
        until("start", || run.stderr().contains("hanging").then_some(()));
        base().write();
        run.signal(Signal::HUP);
        assert_eq!(run.event("reloaded", 1)["removed"][0], "slow");
        let free = || fs::write(directory.join("freed"), "").unwrap();
        if !is_added_during_start {
            free();
        }
        both();
        run.signal(Signal::HUP);
        assert_eq!(run.event("reloaded", 2)["added"][0], "slow");
        free();
        event_of(&run, "slow", "resting", 1);
        assert!(run.events("trouble").is_empty(), "{}", run.stdout());
        // No other rotation of this name holds the files.
        base().write();
        run.signal(Signal::HUP);
        run.event("reloaded", 3);
        both();
        run.signal(Signal::HUP);
        run.event("reloaded", 4);
        event_of(&run, "slow", "resting", 2);
        run.signal(Signal::USR1);
        event_of(&run, "slow", "rotated", 1);
        stop(run);
    }
}

#[test]
fn kubeconfig_on_disk_that_hangs_keeps_no_other_member_from_reload() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    fs::copy(directory.join("signer/admin.kubeconfig"), directory.join("stuck.kubeconfig")).unwrap();
    let stuck = format!(
        "signer: example.com/mesh, commonName: stuck, identity: {{kubeconfig: {}/stuck.kubeconfig}}",
        directory.display()
    );
    let list = |name: &str| {
        let proxy = format!("signer: example.com/mesh, commonName: proxy, dnsNames: [{name}]");
        List::new(directory)
            .with_node()
            .with("proxy", &format!("{proxy}, identity: {{certificate: node}}"))
            .with("stuck", &stuck)
            .write();
    };
    list("a.example");
    let mut run = start_with_fault(directory, &[], ("HANG_OPEN", "/stuck.kubeconfig"));
    ["proxy", "stuck"].iter().for_each(|name| drop(event_of(&run, name, "resting", 1)));
    fs::write(directory.join("hung"), "").unwrap();
    list("b.example");
    run.signal(Signal::HUP);
    let reloaded = run.event("reloaded", 1);
    assert_eq!(reloaded["changed"], Value::Array(vec!["proxy".into()]));
    event_of(&run, "proxy", "rotated", 1);
    let trouble = event_of(&run, "stuck", "trouble", 1);
    assert!(trouble["reason"].as_str().unwrap().contains("its files were not read within"), "{trouble}");
    stop(run);
}
