//! Members whose files are laid out for other programs.

use super::*;
use perennial::Template;
use perennial_pki::{Chain, interim};
use perennial_rotation::clock;

/// A list with a member of each layout for other programs.
fn write_list(directory: &Path) {
    let at = directory.display();
    let text = fs::read_to_string(directory.join("list.yaml")).unwrap();
    let member = |name: &str, store: &str, more: &str| {
        format!(
            "- {{name: {name}, signer: example.com/mesh, commonName: {name}, identity: {{certificate: node}}, {more}store: {{{store}}}}}\n"
        )
    };
    let hook = format!("onRotated: {{run: [sh, -c, 'echo $PERENNIAL_FILE >> {at}/runs']}}, access: {{mode: 0640}}, ");
    let more = [
        member("linked", &format!("linked: {{path: {at}/etcd}}"), ""),
        member("plain", &format!("files: {{certificate: {at}/proxy/tls.crt, key: {at}/proxy/tls.key}}"), &hook),
        member("bundle", &format!("bundle: {{file: {at}/haproxy/site.pem}}"), "keyEncoding: sec1, "),
    ];
    fs::write(directory.join("list.yaml"), text + &more.concat()).unwrap();
}

fn serial(file: &Path) -> String {
    Chain::from_pem(&fs::read(file).unwrap()).unwrap().serial().to_owned()
}

#[test]
fn members_with_files_of_other_programs_are_kept_and_shown() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let signer = Signer::start(directory, &["--other-signers", "true"]);
    List::new(directory).with_node().write();
    write_list(directory);
    let names = ["linked", "plain", "bundle"];
    let files = ["etcd/tls.crt", "proxy/tls.crt", "haproxy/site.pem"].map(|file| directory.join(file));
    let run = start(directory, &run_list(&[]));
    for (name, file) in names.iter().zip(&files) {
        event_of(&run, name, "resting", 1);
        assert_eq!(serial(file), event_of(&run, name, "issued", 1)["serial"]);
    }
    // A run that has not begun when the next certificate is there would be for that one.
    hook_runs(directory, 1);
    run.signal(Signal::USR1);
    for (name, file) in names.iter().zip(&files) {
        assert_eq!(event_of(&run, name, "rotated", 1)["serial"], serial(file));
    }
    let runs = hook_runs(directory, 2);
    assert!(runs.lines().all(|line| Path::new(line) == files[1]), "{runs}");
    assert_eq!(perennial_tests::command::mode(&directory.join("proxy/tls.key")), 0o640);
    assert!(fs::read_to_string(&files[2]).unwrap().contains("BEGIN EC PRIVATE KEY"));

    // At SIGHUP at the latest, files that another program has removed are written again.
    fs::remove_file(&files[1]).unwrap();
    let list = |command: &str| perennial(directory, &[command, "--certificates", "list.yaml", "--json"]);
    let status = list("status");
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.stderr.contains("plain: problems found"), "{status:?}");
    run.signal(Signal::HUP);
    until("files", || files[1].exists().then_some(()));
    run.logged("plain: another program has removed or changed files");
    // Also if the private directories are gone as well.
    let gone = [0, 2].map(|index| (names[index], &files[index], serial(&files[index])));
    ["etcd", "haproxy"].iter().for_each(|name| fs::remove_dir_all(directory.join(name)).unwrap());
    run.signal(Signal::HUP);
    for (name, file, before) in &gone {
        until("files", || file.exists().then_some(()));
        assert_eq!(serial(file), *before);
        run.logged(&format!("{name}: another program has removed files"));
    }
    for command in ["status", "verify"] {
        let good = list(command);
        assert_eq!(good.code, Some(0), "{good:?}");
    }
    stop(run);

    // A restart finds everything, and requests nothing.
    let requests = signer.requests().len();
    let once = perennial(directory, &run_list(&["--once"]));
    assert_eq!((once.code, signer.requests().len()), (Some(0), requests), "{once:?}");
    let hook = serde_json::from_str::<Value>(&list("status").stdout).unwrap();
    assert_eq!(hook["certificates"]["plain"]["hook"]["owed"], false, "{hook}");
}

/// Starts `run` with metrics. Returns the address of the metrics, too.
fn start_with_metrics(directory: &Path) -> (Process, String) {
    let mut run = start(directory, &run_list(&["--metrics-listen", "127.0.0.1:0"]));
    let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
    (run, address)
}

#[test]
fn certificate_kept_aside_from_foreign_file_is_shown_also_after_restart() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    List::new(directory).with_node().write();
    write_list(directory);
    fs::create_dir(directory.join("proxy")).unwrap();
    let foreign = interim(&Template::new("postgres"), clock::now().unix).unwrap();
    fs::write(directory.join("proxy/tls.crt"), foreign.chain().pem()).unwrap();
    fs::write(directory.join("proxy/tls.key"), foreign.key().to_pem().as_bytes()).unwrap();
    let (mut run, mut address) = start_with_metrics(directory);
    event_of(&run, "plain", "trouble", 1);
    for what in ["first run", "restart"] {
        ["node", "linked", "bundle"].iter().for_each(|name| _ = event_of(&run, name, "resting", 1));
        let ready = until(what, || {
            let ready = get(&address, "/readyz");
            ready.contains("plain: certificate not in its files since ").then_some(ready)
        });
        assert!(ready.contains(" 200 OK") && ready.contains("is for postgres, not for plain"), "{what}: {ready}");
        assert!(!ready.contains("in memory only"), "{what}: {ready}");
        let page = get(&address, "/");
        assert!(page.contains("not written") && page.contains("replaceForeign: true"), "{what}: {page}");
        assert!(!page.contains("do not restart"), "{what}: {page}");
        assert!(get(&address, "/metrics").contains("perennial_unwritten{certificate=\"plain\"} 1\n"), "{what}");
        let state = get(&address, "/state");
        let state: Value = serde_json::from_str(state.split_once("\r\n\r\n").unwrap().1).unwrap();
        let plain = &state["certificates"]["plain"];
        assert!(plain["last_error"].as_str().unwrap().contains("postgres"), "{what}: {plain}");
        assert!(plain["unwritten"] == true && plain["unwritten_since"].is_string(), "{what}: {plain}");
        let status = perennial(directory, &["status", "--certificates", "list.yaml"]);
        assert!(status.stdout.contains("replaceForeign: true"), "{what}: {status:?}");
        let kept_in = format!("{}/proxy/.perennial\n", directory.display());
        assert!(status.stdout.contains(&kept_in), "{what}: {status:?}");
        let verify = perennial(directory, &["verify", "--certificates", "list.yaml"]);
        assert!(verify.code == Some(1) && verify.stdout.contains("could not put its next certificate in place"));
        assert!(verify.stdout.contains("is for postgres"), "{verify:?}");
        if what == "first run" {
            stop(run);
            (run, address) = start_with_metrics(directory);
        }
    }
    assert!(get(&address, "/metrics").contains("perennial_hook_owed{certificate=\"plain\"} 1\n"));
    assert!(!directory.join("runs").exists(), "the hook's program would read the foreign file");
    ["tls.crt", "tls.key"].iter().for_each(|name| fs::remove_file(directory.join("proxy").join(name)).unwrap());
    run.signal(Signal::HUP);
    until("run of the hook", || directory.join("runs").exists().then_some(()));
    until("metric", || {
        get(&address, "/metrics").contains("perennial_unwritten{certificate=\"plain\"} 0\n").then_some(())
    });
    assert!(directory.join("proxy/tls.crt").exists());
    stop(run);
}

#[test]
fn file_of_another_program_is_kept_and_reported() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let _signer = Signer::start(directory, &["--other-signers", "true"]);
    List::new(directory).with_node().write();
    write_list(directory);
    fs::create_dir(directory.join("haproxy")).unwrap();
    fs::write(directory.join("haproxy/site.pem"), "not ours").unwrap();
    let run = start(directory, &run_list(&[]));
    let trouble = event_of(&run, "bundle", "trouble", 1);
    assert!(trouble["reason"].as_str().unwrap().contains("another program may need it"), "{trouble}");
    ["linked", "plain"].iter().for_each(|name| drop(event_of(&run, name, "issued", 1)));
    assert_eq!(fs::read_to_string(directory.join("haproxy/site.pem")).unwrap(), "not ours");
    stop(run);
    let is_refused = |why: &str| {
        let verify = perennial(directory, &["verify", "--certificates", "list.yaml"]);
        assert_eq!(verify.code, Some(1), "{verify:?}");
        assert!(
            verify.stderr.contains("bundle (perennial): could not put its next certificate in place: "),
            "{verify:?}"
        );
        assert!(verify.stderr.contains(why) && verify.stderr.contains("replaceForeign: true"), "{verify:?}");
        assert_eq!(verify.stdout.matches("could start, with ").count(), 3, "{verify:?}");
    };
    is_refused("another program may need it");
    fs::remove_file(directory.join("haproxy/site.pem")).unwrap();
    std::os::unix::fs::symlink("elsewhere", directory.join("haproxy/site.pem")).unwrap();
    is_refused("symbolic link to elsewhere");
}
