//! Reading and writing kubeconfig files.

mod kubeconfig_support;

use std::path::Path;

use kubeconfig_support::*;
use perennial_kubernetes::cluster::Proxy;
use perennial_kubernetes::kubeconfig::{Endpoint, kubeconfig_with_certificate, kubeconfig_with_token, node_kubeconfig};
use perennial_pki::Credential;
use perennial_rotation::Identity;

#[test]
fn file_names_are_relative_to_kubeconfig() {
    let text = config(
        "server: 'https://h:1/p', certificate-authority: pki/ca.crt, tls-server-name: api",
        "client-certificate: pki/n.crt, client-key: /abs/n.key",
    );
    let files =
        Files::default().with("/etc/x/pki/ca.crt", CA).with("/etc/x/pki/n.crt", NODE).with("/abs/n.key", NODE_KEY);
    assert_eq!(
        endpoint(&text, &files).expect("an endpoint"),
        Endpoint {
            server: "https://h:1/p".into(),
            ca_pem: Some(CA.into()),
            ca_file: Some("/etc/x/pki/ca.crt".into()),
            tls_server_name: Some("api".into()),
            ..Endpoint::default()
        }
    );
    assert_eq!(certificate_pem(identity(&text, &files)), NODE);
}

#[test]
fn inline_data_takes_precedence_over_files() {
    let text = format!(
        "\
clusters:
- name: prod
  cluster:
    server: https://h
    certificate-authority: /none
    certificate-authority-data: |
{ca}users:
- name: node
  user:
    client-certificate: /none
    client-certificate-data: |
{certificate}    client-key: /none
    client-key-data: |
{key}contexts:
- name: main
  context: {{cluster: prod, user: node}}
current-context: main
",
        ca = base64_in_lines(CA),
        certificate = base64_in_lines(NODE),
        key = base64_in_lines(NODE_KEY),
    );
    let endpoint = endpoint(&text, &Files::default()).expect("an endpoint");
    assert_eq!((endpoint.ca_pem, endpoint.ca_file), (Some(CA.into()), None));
    assert_eq!(certificate_pem(identity(&text, &Files::default())), NODE);
}

#[test]
fn certificate_and_key_may_be_in_one_file() {
    let text = with_user("client-certificate: current.pem, client-key: current.pem");
    for bundle in [format!("{NODE}{NODE_KEY}"), format!("{NODE_KEY}{NODE}")] {
        let files = Files::default().with("/etc/x/current.pem", bundle);
        assert_eq!(certificate_pem(identity(&text, &files)), NODE);
    }
}

#[test]
fn token_file_takes_precedence_and_is_reread() {
    let text = with_user("token: inline, tokenFile: token");
    let kubeconfig = parse(&text).expect("a kubeconfig");
    let selected = kubeconfig.select(None).expect("a context");
    let mut files = Files::default();
    assert_eq!(token(selected.identity(&mut |path| files.read(path))), "inline");
    files = files.with("/etc/x/token", "first\n");
    assert_eq!(token(selected.identity(&mut |path| files.read(path))), "first");
    files = files.with("/etc/x/token", " second ");
    assert_eq!(token(selected.identity(&mut |path| files.read(path))), "second");
}

/// From the field, a user with a certificate and a token: <https://github.com/hjacobs/pykube/pull/44>,
/// <https://github.com/Azure/AKS/issues/3294>
#[test]
fn identity_of_user_has_both_certificate_and_token() {
    let files = Files::default().with("/etc/x/n.pem", format!("{NODE}{NODE_KEY}")).with("/etc/x/token", "from-file");
    let pair = "client-certificate: n.pem, client-key: n.pem";
    for (user, expected) in [("token: inline", "inline"), ("token: inline, tokenFile: token", "from-file")] {
        match identity(&with_user(&format!("{user}, {pair}")), &files) {
            Ok(Identity::CertificateAndToken(credential, token)) => {
                assert_eq!((credential.chain().pem().as_str(), token.reveal()), (NODE, expected));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// From the field, a user with a password and a certificate: <https://github.com/kubernetes/kubernetes/issues/4892>
#[test]
fn password_beside_certificate_is_warned_about() {
    let files = Files::default().with("/etc/x/n.pem", format!("{NODE}{NODE_KEY}"));
    let text = with_user("client-certificate: n.pem, client-key: n.pem, username: u, password: S3cret");
    assert_eq!(certificate_pem(identity(&text, &files)), NODE);
    let kubeconfig = parse(&text).expect("a kubeconfig");
    let warnings = kubeconfig.select(None).expect("a context").warnings();
    let expected = ["66: users[0].user.username", "79: users[0].user.password"].map(|place| {
        format!("{PATH}:8:{place}: basic authentication is not supported; only the client certificate is used")
    });
    assert_eq!(warnings, expected);
}

#[test]
fn user_without_credentials_is_anonymous() {
    let no_user = with_user("").replace(", user: node", "");
    for text in [with_user(""), with_user("token: '', exec: null"), no_user] {
        assert!(matches!(identity(&text, &Files::default()), Ok(Identity::Anonymous)));
    }
}

#[test]
fn json_kubeconfig_with_unknown_fields_is_accepted() {
    let text = r#"{
        "kind": "Config", "apiVersion": "v1", "preferences": {"colors": true},
        "extensions": [{"name": "x", "extension": {"deep": [1, -2.5, .inf, null, {"a": {}}]}}],
        "clusters": [
            {"name": "prod", "cluster": {"server": "https://h", "extensions": [], "disable-compression": true}}
        ],
        "users": [{"name": "node", "user": {"token": "t\u0061b", "new-field": 7}}],
        "contexts": [{"name": "main", "context": {"cluster": "prod", "user": "node", "namespace": "x"}}],
        "current-context": "main"
    }"#;
    assert_eq!(endpoint(text, &Files::default()).expect("an endpoint").server, "https://h");
    assert_eq!(token(identity(text, &Files::default())), "tab");
}

#[test]
fn select_takes_named_or_current_context() {
    let text = with_user("token: t").replace(
        "current-context",
        "- {name: other, context: {cluster: prod}}
current-context",
    );
    let kubeconfig = parse(&text).expect("a kubeconfig");
    assert_eq!(kubeconfig.contexts().collect::<Vec<_>>(), ["main", "other"]);
    assert_eq!(kubeconfig.select(None).expect("a context").context(), "main");
    assert_eq!(kubeconfig.select(Some("other")).expect("a context").context(), "other");
    refused(
        kubeconfig.select(Some("third")),
        "/etc/x/kubeconfig:10:3: contexts: there is no context \"third\"; there are: \"main\", \"other\"",
    );
}

/// From the field, kubeconfigs with several YAML documents, and with empty ones:
/// <https://github.com/kube-rs/kube/issues/440>, <https://github.com/controlplaneio/kubesec/issues/120>
#[test]
fn kubeconfig_is_read_from_first_nonempty_yaml_document() {
    let one = with_user("token: t");
    let second = one.lines().count() + 2;
    for (text, warns) in [
        (format!("---\n{one}---\n"), None),
        (format!("{one}---\n# nothing\n---\n"), None),
        (format!("{one}...\n"), None),
        (format!("--- {{}}\n---\n{one}"), None),
        (format!("{one}---\nkind: Pod\n"), Some(second)),
        (format!("{one}---\n{}", with_user("token: other")), Some(second)),
        (format!("{one}---\na: [\n"), Some(second)),
    ] {
        let warnings = parse(&text).expect("a kubeconfig").warnings().to_vec();
        assert_eq!(warnings.len(), usize::from(warns.is_some()), "{text}");
        if let Some(line) = warns {
            let warning = "a second YAML document follows; only the first one counts, as for kubectl";
            assert!(warnings[0].starts_with(&format!("/etc/x/kubeconfig:{line}:")), "{warnings:?}");
            assert!(warnings[0].ends_with(warning), "{warnings:?}");
        }
        assert_eq!(token(identity(&text, &Files::default())), "t");
    }
}

#[test]
fn repeated_yaml_key_is_refused_only_if_used_with_different_values() {
    let whole = with_user("token: t");
    for (again, line) in [
        ("preferences: {a: 1, a: 2}\n", "13:24"),
        ("preferences: {}\npreferences: {b: 1}\n", "14:14"),
        ("kind: Config\n", "13:7"),
        // In a user that is not selected.
        ("x: [{a: {token: 1, token: 2}}]\n", "13:27"),
    ] {
        let kubeconfig = parse(&format!("{whole}{again}")).expect("a kubeconfig");
        let warning = format!("{PATH}:{line}: the key of this value is repeated in its mapping; remove one of the two");
        assert_eq!(kubeconfig.warnings(), [warning], "{again}");
    }
    let twice = whole.replace("{token: t}", "{token: t, token: u}");
    refused(
        identity(&twice, &Files::default()),
        "/etc/x/kubeconfig:8:27: users[0].user.token: this key has another value in line 8; keep one of them",
    );
    let twice = whole.replace("{server: ", "{server: 'https://other', server: ");
    assert!(endpoint(&twice, &Files::default()).is_err());
    assert_eq!(token(identity(&whole.replace("{token: t}", "{token: t, token: t}"), &Files::default())), "t");
}

#[test]
fn misspelt_yaml_key_is_warned_about_with_right_spelling() {
    for (text, warning) in [
        (
            config("server: 'https://h', certificate_authority: /ca", ""),
            "5:57: clusters[0].cluster: ignoring the unknown key \
         certificate_authority; did you mean certificate-authority?",
        ),
        (
            config("server: 'https://h', Insecure-Skip-TLS-Verify: true", ""),
            "5:60: clusters[0].cluster: ignoring the unknown key \
         Insecure-Skip-TLS-Verify; did you mean insecure-skip-tls-verify?",
        ),
        (
            with_user("token-file: /t"),
            "8:22: users[0].user: ignoring the unknown key token-file; did you mean tokenFile?",
        ),
        (with_user("tokne: t"), "8:17: users[0].user: ignoring the unknown key tokne; did you mean token?"),
        (
            with_user("").replace("user: {}", "usr: {}"),
            "8:8: users[0]: ignoring the unknown key usr; did you mean user?",
        ),
        (
            with_user("token: t") + "currentContext: main\n",
            "13:17: ignoring the unknown key currentContext; did you mean current-context?",
        ),
    ] {
        let kubeconfig = parse(&text).expect("a kubeconfig");
        assert_eq!(kubeconfig.warnings(), [format!("{PATH}:{warning}")]);
    }
    assert_eq!(parse(&with_user("token: t, new-field: 7")).expect("a kubeconfig").warnings(), [] as [&str; 0]);
}

fn written_endpoint() -> Endpoint {
    Endpoint {
        server: "https://10.0.0.1:6443".into(),
        ca_pem: Some(CA.into()),
        ca_file: None,
        tls_server_name: Some("kubernetes.default".into()),
        insecure_skip_tls_verify: false,
        proxy: Some(Proxy::from_url("http://me:secret@proxy.example:3128").unwrap()),
        ..Endpoint::default()
    }
}

#[test]
fn extensions_are_copied_and_hidden_from_debug() {
    let text = config(
        "server: 'https://h:1', disable-compression: true, extensions: [{name: cluster_info, extension: \
         {provider: \"mini \\\"kube\\\"\\n\", ports: [1, -2, 1.5, 1.0, 18446744073709551615], none: ~, yes: true, '7': {}, \
         empty: [], text: '1'}}]",
        "token: abc",
    );
    let read = endpoint(&text, &Files::default()).expect("an endpoint");
    let written = node_kubeconfig(&read, Path::new("/pki/current.pem"));
    assert_eq!(endpoint(&written, &Files::default()).expect("an endpoint"), read);
    assert!(written.contains("    disable-compression: true\n"), "{written}");
    let extensions = r#"    extensions: [{"name":"cluster_info","extension":{"provider":"mini \"kube\"\u000a","ports":[1,-2,1.5,1.0,18446744073709551615],"none":null,"yes":true,"7":{},"empty":[],"text":"1"}}]"#;
    assert!(written.lines().any(|line| line == extensions), "{written}");
    assert!(!format!("{read:?}").contains("kube"), "{read:?}");
}

#[test]
fn node_kubeconfig_names_current_pair_as_certificate_and_key() {
    let (ca_file, tls_server_name) = (Some("/pki/ca.crt".into()), None);
    let endpoint = Endpoint { ca_file, tls_server_name, proxy: None, ..written_endpoint() };
    assert_eq!(
        node_kubeconfig(&endpoint, Path::new("/pki/kubelet-client-current.pem")),
        r#"apiVersion: v1
kind: Config
clusters:
- name: "default-cluster"
  cluster:
    server: "https://10.0.0.1:6443"
    certificate-authority: "/pki/ca.crt"
users:
- name: "default-auth"
  user:
    client-certificate: "/pki/kubelet-client-current.pem"
    client-key: "/pki/kubelet-client-current.pem"
contexts:
- name: "default-context"
  context:
    cluster: "default-cluster"
    user: "default-auth"
    namespace: default
current-context: "default-context"
"#
    );
}

#[test]
fn written_kubeconfig_reads_back_equal() {
    let credential = Credential::from_pem(format!("{NODE}{NODE_KEY}").as_bytes()).expect("a credential");
    let odd = "/pki/a \"b\"\\\n\t\0\u{7f}\u{85}\u{2028}\u{feff}: #é";
    let files = Files::default().with("/pki/current.pem", format!("{NODE}{NODE_KEY}")).with(odd, CA);
    let insecure = Endpoint { ca_pem: None, insecure_skip_tls_verify: true, ..written_endpoint() };
    let from_file = Endpoint { ca_file: Some(odd.into()), ..written_endpoint() };
    for expected in [written_endpoint(), insecure, from_file] {
        let text = node_kubeconfig(&expected, Path::new("/pki/current.pem"));
        assert_eq!(endpoint(&text, &files).expect("an endpoint"), expected);
        assert_eq!(certificate_pem(identity(&text, &files)), NODE);

        let text = kubeconfig_with_token(&expected, "kubelet-bootstrap", "abcdef.0123456789abcdef");
        assert_eq!(endpoint(&text, &files).expect("an endpoint"), expected);
        assert_eq!(token(identity(&text, &files)), "abcdef.0123456789abcdef");
        assert_eq!(
            parse(&text).expect("a kubeconfig").select(None).expect("a context").context(),
            "kubelet-bootstrap@kubernetes"
        );

        let text = kubeconfig_with_certificate(&expected, "yes", &credential);
        assert_eq!(endpoint(&text, &files).expect("an endpoint"), expected);
        assert_eq!(certificate_pem(identity(&text, &files)), NODE);
    }
}
