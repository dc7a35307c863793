//! `run` and `status`: the CAs that verify the API server, the proxy to the API server, and warnings about kubeconfigs
//! that kubelet cannot use.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{Ca, RUN, Signer, bootstrap, files, get, perennial, put_in_use, start, start_with, until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// From the field, a CA file that is replaced while a client runs:
/// <https://github.com/kubernetes/kubernetes/issues/119483>, <https://github.com/kubernetes/kubernetes/issues/46287>,
/// <https://github.com/kube-rs/kube/issues/1953>
#[test]
fn replaced_ca_file_is_used_without_sighup() {
    for runtime in ["std", "smol"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        let signer = Signer::start(path, &[]);
        bootstrap(path, &signer.server, ", certificate-authority: ca.crt");
        fs::write(path.join("ca.crt"), Ca::new().authority.certificate_pem()).unwrap();
        let more = ["--runtime", runtime, "--retry", "100ms-1s", "--metrics-listen", "127.0.0.1:0"];
        let mut run = start(path, &[RUN.as_slice(), &more].concat());
        let address = run.event("listening", 1)["address"].as_str().unwrap().to_owned();
        let trouble = until("complaint", || run.events("trouble").into_iter().next());
        let reason = trouble["reason"].as_str().unwrap();
        assert!(reason.contains("certificate-authority (ca.crt, read at 20"), "{reason}");
        fs::copy(path.join("signer/ca.crt"), path.join("ca.crt")).unwrap();
        run.event("issued", 1);
        run.logged("ca.crt: the CA bundle has changed");

        // After a reload, `/state` still shows the CAs that the running rotation uses.
        run.signal(Signal::HUP);
        run.event("reloaded", 1);
        fs::write(path.join("ca.crt"), "damaged").unwrap();
        // At rest: a file that has just been modified may still be incomplete, and is read again later.
        let earlier = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(path.join("ca.crt")).unwrap().set_modified(earlier).unwrap();
        run.signal(Signal::USR1);
        until("word of the damage", || get(&address, "/state").contains("it cannot be read now").then_some(()));
    }
}

/// From the field, a kubeconfig that names no CA, for a server with a certificate of a public CA:
/// <https://github.com/kube-rs/kube/issues/2028>
#[test]
fn system_cas_verify_server_if_kubeconfig_names_no_ca() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    bootstrap(path, &signer.server, "");
    let system = path.join("signer/ca.crt");
    let arguments = [RUN.as_slice(), &["--metrics-listen", "127.0.0.1:0"]].concat();
    let mut run = start_with(path, &arguments, &[("SSL_CERT_FILE", system.to_str().unwrap())]);
    run.event("issued", 1);
    let response = get(run.event("listening", 1)["address"].as_str().unwrap(), "/state");
    let state: Value = serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        (&state["server"]["url"], &state["server"]["checked_against"]),
        (&signer.server.as_str().into(), &"system".into())
    );
    let ca = state["server"]["ca"].as_str().unwrap();
    assert!(ca.contains("(SSL_CERT_FILE=") && ca.contains("read at 20"), "{ca}");
    assert_eq!(state["server"]["proxy_from"], "HTTPS_PROXY is not set");
    run.logged("with the system's CA certificates");
    // The written kubeconfig names no CA, so that the next start uses the system's as well.
    let written = until("kubeconfig", || fs::read_to_string(path.join("kubeconfig")).ok());
    assert!(!written.contains("certificate-authority"), "{written}");
    drop(run);

    fs::remove_dir_all(path.join("pki")).unwrap();
    fs::remove_file(path.join("kubeconfig")).unwrap();
    fs::write(path.join("other.crt"), Ca::new().authority.certificate_pem()).unwrap();
    let other = path.join("other.crt");
    let run = start_with(path, &RUN, &[("SSL_CERT_FILE", other.to_str().unwrap())]);
    let trouble = until("complaint", || run.events("trouble").into_iter().next());
    let reason = trouble["reason"].as_str().unwrap();
    assert!(
        reason.contains("the kubeconfig has no certificate-authority, and the system's CA certificates"),
        "{reason}"
    );
    drop(run);

    let run = start_with(path, &RUN, &[("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")]);
    let trouble = until("complaint", || run.events("trouble").into_iter().next());
    let reason = trouble["reason"].as_str().unwrap();
    assert!(reason.contains("no certificate-authority is named, and the system has no CA certificates"), "{reason}");
}

/// Runs `status` on a good pair, with a kubeconfig whose cluster has the fields `cluster`. Returns JSON, text and exit
/// code.
fn status(cluster: &str, more: &[&str], environment: &[(&str, &str)]) -> (Value, String, i32) {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let mut ca = Ca::new();
    put_in_use(&path.join("pki"), ca.node(Duration::ZERO, Duration::from_secs(3600)).to_pem().as_bytes());
    fs::write(path.join("ca.crt"), ca.authority.certificate_pem()).unwrap();
    let cluster = cluster.replace("INLINE", &STANDARD.encode(ca.authority.certificate_pem()));
    for (name, user) in
        [("kubeconfig", "client-certificate: to-come.pem, client-key: to-come.pem"), ("bootstrap", "token: abc")]
    {
        let text = format!(
            "clusters: [{{name: c, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
        );
        fs::write(path.join(name), text).unwrap();
    }
    let before = files(path);
    let arguments = [&["status", "--cert-dir", "pki", "--kubeconfig", "kubeconfig"], more].concat();
    let sentences = start_with(path, &arguments, environment).end();
    let json = start_with(path, &[&arguments[..], &["--json"]].concat(), environment).end();
    assert_eq!(files(path), before);
    assert_eq!(sentences.code, json.code);
    let text = sentences.stdout + &sentences.stderr;
    assert!(!(text.clone() + &json.stdout + &json.stderr).contains("s3cret"), "{text}");
    (serde_json::from_str(&json.stdout).unwrap(), text, json.code.unwrap())
}

#[test]
fn status_shows_cas_and_proxy_used_for_the_api_server() {
    const FILE: &str = "server: 'https://api.example:6443', certificate-authority: ca.crt";
    const NONE: &str = "server: 'https://api.example:6443'";
    let unset = ("HTTPS_PROXY is not set", None);
    let variable = ("HTTPS_PROXY", "http://me:s3cret@p.example:3128");
    let proxied = ("HTTPS_PROXY", Some("http://p.example:3128"));
    let url = format!("{FILE}, proxy-url: 'http://me:s3cret@q.example'");
    let system =
        ("system", "the system's CA certificates (SSL_CERT_FILE=ca.crt, SSL_CERT_DIR=/nonexistent), read at 20");
    let file = ("file", "ca.crt, read at 20");
    for (cluster, more, environment, (checked, ca), (because, proxy)) in [
        (FILE, &[][..], &[][..], file, unset),
        (
            &format!("{NONE}, certificate-authority-data: INLINE"),
            &[],
            &[],
            ("inline", "certificate-authority-data in kubeconfig"),
            unset,
        ),
        (NONE, &[], &[("SSL_CERT_FILE", "ca.crt"), ("SSL_CERT_DIR", "/nonexistent")], system, unset),
        (
            NONE,
            &[],
            &[("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")],
            ("system", "none: no certificate-authority is named, and the system has no CA"),
            unset,
        ),
        (
            &format!("{NONE}, insecure-skip-tls-verify: true"),
            &[],
            &[],
            ("insecure", "none: insecure-skip-tls-verify"),
            unset,
        ),
        (FILE, &[], &[variable], file, proxied),
        (FILE, &[], &[variable, ("NO_PROXY", ".example")], file, ("NO_PROXY", None)),
        (FILE, &["--proxy=none"], &[variable], file, ("--proxy=none", None)),
        (&url, &["--proxy=none"], &[variable], file, ("proxy-url", Some("http://q.example:80"))),
    ] {
        let (value, text, code) = status(cluster, more, environment);
        let server = &value["server"];
        assert_eq!((&value["state"], code), (&"good".into(), 0), "{text}");
        assert_eq!((&server["url"], &server["kubeconfig"]), (&"https://api.example:6443".into(), &"kubeconfig".into()));
        assert_eq!((&server["checked_against"], &server["proxy_from"]), (&checked.into(), &because.into()), "{server}");
        assert_eq!(server["proxy"].as_str(), proxy);
        assert!(server["ca"].as_str().unwrap().starts_with(ca), "{server}");
        for line in [
            "\n\nserver      https://api.example:6443\nkubeconfig  kubeconfig\n".to_owned(),
            format!("\nCAs         {ca}"),
            format!("\nproxy       {} ({because})\n", proxy.unwrap_or("none")),
        ] {
            assert!(text.contains(&line), "no {line:?} in {text}");
        }
    }
    // As with `run`, the bootstrap kubeconfig names the server while the kubeconfig's user is unusable.
    let (value, text, _) = status(FILE, &["--bootstrap-kubeconfig", "bootstrap"], &[]);
    assert!(value["server"]["kubeconfig"] == "bootstrap" && text.contains("\nkubeconfig  bootstrap\n"), "{text}");
}

#[test]
fn status_shows_certificate_despite_unusable_kubeconfig() {
    const FILE: &str = "server: 'https://api.example:6443', certificate-authority: ca.crt";
    for (cluster, environment, why) in [
        ("server: 'http://api.example'", &[][..], "plain HTTP is not supported"),
        ("server: 'https://api.example', certificate-authority: gone.crt", &[], "gone.crt"),
        (FILE, &[("HTTPS_PROXY", "socks5://me:s3cret@p:1080")], "HTTPS_PROXY: only HTTP proxies are supported"),
        ("}", &[], "kubeconfig:1:"),
    ] {
        let (value, text, code) = status(cluster, &[], environment);
        assert_eq!((&value["state"], code), (&"good".into(), 2), "{text}");
        assert!(value["server"]["error"].as_str().unwrap().contains(why), "{value}");
        assert!(text.contains("\nserver      not known: ") && text.contains("\nserial"), "{text}");
        // Once in the output, once on stderr as the reason of exit code 2.
        assert_eq!(text.matches(why).count(), 2, "{text}");
    }
}

/// From the field, an expired pair in kubelet.conf: <https://github.com/kubernetes/kubeadm/issues/1317>
#[test]
fn kubeconfig_unusable_for_kubelet_is_logged() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let signer = Signer::start(path, &[]);
    bootstrap(path, &signer.server, ", certificate-authority: signer/ca.crt");
    let once = [RUN.as_slice(), &["--once"]].concat();
    assert_eq!(perennial(path, &once).code, Some(0));
    // kubeadm embeds a pair, which no program renews.
    let day = Duration::from_secs(86_400);
    let expired = Ca::new().node(day * 2, day);
    fs::write(path.join("expired.pem"), expired.to_pem().as_bytes()).unwrap();
    let user = "client-certificate: expired.pem, client-key: expired.pem";
    let text = fs::read_to_string(path.join("bootstrap")).unwrap();
    let from = text.find("{token").unwrap();
    let to = from + text[from..].find('}').unwrap();
    let embedded = format!("{}{{{user}{}", &text[..from], &text[to..]);
    fs::write(path.join("kubeconfig"), &embedded).unwrap();
    fs::rename(path.join("bootstrap"), path.join("away")).unwrap();
    let ended = perennial(path, &once);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stderr.contains("kubeconfig: the user in this kubeconfig has no credential that is valid now"),
        "{}",
        ended.stderr
    );
    assert_eq!(fs::read_to_string(path.join("kubeconfig")).unwrap(), embedded);
    // With a bootstrap kubeconfig, `run` writes the kubeconfig anew, as the warning advises.
    fs::rename(path.join("away"), path.join("bootstrap")).unwrap();
    assert_eq!(perennial(path, &once).code, Some(0));
    assert!(fs::read_to_string(path.join("kubeconfig")).unwrap().contains("kubelet-client-current.pem"));
    assert!(!perennial(path, &once).stderr.contains("could not start"));
    // A key that only perennial cannot read is no reason for the warning.
    fs::rename(path.join("bootstrap"), path.join("away")).unwrap();
    let curve = "ec_paramgen_curve:secp521r1";
    let pair = ["req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-subj", "/CN=w", "-keyout", "p521.key"];
    let made = Command::new("openssl").args(pair).args(["-out", "p521.pem"]).current_dir(path).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let own = embedded.replace("key: expired.pem", "key: p521.key").replace("expired.pem", "p521.pem");
    fs::write(path.join("kubeconfig"), own).unwrap();
    let ended = perennial(path, &once);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("ECDSA keys on P-521 are not supported by perennial"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("could not start"), "{}", ended.stderr);
}
