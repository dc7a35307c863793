//! Kubeconfigs as people have them, and as we write them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial_kubernetes::kubeconfig::{
    Credentials, Endpoint, Kubeconfig, KubeconfigError, kubeconfig_with_certificate, kubeconfig_with_token,
    node_kubeconfig,
};
use perennial_pki::{Chain, Credential, KeyAlgorithm, KeyPair, Roots};

const PATH: &str = "/etc/x/kubeconfig";

/// A file system of a few files.
#[derive(Default)]
struct Files(HashMap<PathBuf, Vec<u8>>);

impl Files {
    fn with(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.0.insert(path.into(), content.as_ref().to_vec());
        self
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::Error::from_raw_os_error(2))
    }
}

fn parse(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    Kubeconfig::parse(Path::new(PATH), text)
}

fn endpoint(text: &str, files: &Files) -> Result<Endpoint, KubeconfigError> {
    parse(text)?.select(None)?.cluster(&mut |path| files.read(path))
}

fn identity(text: &str, files: &Files) -> Result<Credentials, KubeconfigError> {
    parse(text)?.select(None)?.identity(&mut |path| files.read(path))
}

/// A kubeconfig with these fields in its cluster and its user, in lines 5 and 8.
fn config(cluster: &str, user: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Config
clusters:
- name: prod
  cluster: {{{cluster}}}
users:
- name: node
  user: {{{user}}}
contexts:
- name: main
  context: {{cluster: prod, user: node}}
current-context: main
"
    )
}

fn with_user(user: &str) -> String {
    config("server: 'https://10.0.0.1:6443'", user)
}

#[track_caller]
fn refused<T>(result: Result<T, KubeconfigError>, message: &str) {
    let error = result.err().expect("refused");
    assert_eq!(error.to_string(), message);
}

#[track_caller]
fn token(credentials: Result<Credentials, KubeconfigError>) -> String {
    match credentials.expect("credentials") {
        Credentials::Token(token) => token.to_string(),
        other @ (Credentials::Anonymous | Credentials::Certificate(_)) => panic!("{other:?}"),
    }
}

#[track_caller]
fn certificate_pem(credentials: Result<Credentials, KubeconfigError>) -> String {
    match credentials.expect("credentials") {
        Credentials::Certificate(credential) => credential.chain().pem().to_owned(),
        other @ (Credentials::Anonymous | Credentials::Token(_)) => panic!("{other:?}"),
    }
}

fn base64_in_lines(pem: &str) -> String {
    let text = STANDARD.encode(pem);
    let mut lines = String::new();
    for line in text.as_bytes().chunks(64) {
        writeln!(lines, "      {}", std::str::from_utf8(line).expect("ASCII")).expect("a String");
    }
    lines
}

#[test]
fn files_are_relative_to_the_kubeconfig() {
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
            insecure_skip_tls_verify: false,
        }
    );
    assert_eq!(certificate_pem(identity(&text, &files)), NODE);
}

#[test]
fn inline_data_goes_before_files_and_may_be_broken_in_lines() {
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
fn certificate_and_key_may_be_one_file() {
    let text = with_user("client-certificate: current.pem, client-key: current.pem");
    for bundle in [format!("{NODE}{NODE_KEY}"), format!("{NODE_KEY}{NODE}")] {
        let files = Files::default().with("/etc/x/current.pem", bundle);
        assert_eq!(certificate_pem(identity(&text, &files)), NODE);
    }
}

#[test]
fn a_token_file_goes_before_a_token_and_is_read_each_time() {
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

#[test]
fn a_user_without_credentials_is_anonymous() {
    let no_user = with_user("").replace(", user: node", "");
    for text in [with_user(""), with_user("token: '', exec: null"), no_user] {
        assert!(matches!(identity(&text, &Files::default()), Ok(Credentials::Anonymous)));
    }
}

#[test]
fn json_and_unknown_fields_are_fine() {
    let text = r#"{
        "kind": "Config", "apiVersion": "v1", "preferences": {"colors": true},
        "extensions": [{"name": "x", "extension": {"deep": [1, -2.5, .inf, null, {"a": {}}]}}],
        "clusters": [{"name": "prod", "cluster": {"server": "https://h", "extensions": [], "disable-compression": true}}],
        "users": [{"name": "node", "user": {"token": "t\u0061b", "new-field": 7}}],
        "contexts": [{"name": "main", "context": {"cluster": "prod", "user": "node", "namespace": "x"}}],
        "current-context": "main"
    }"#;
    assert_eq!(endpoint(text, &Files::default()).expect("an endpoint").server, "https://h");
    assert_eq!(token(identity(text, &Files::default())), "tab");
}

#[test]
fn a_context_is_chosen_by_name_or_is_the_current_one() {
    let text = with_user("token: t").replace(
        "current-context",
        "- {name: other, context: {cluster: prod}}
current-context",
    );
    let kubeconfig = parse(&text).expect("a kubeconfig");
    assert_eq!(kubeconfig.path(), Path::new(PATH));
    assert_eq!(kubeconfig.current_context(), Some("main"));
    assert_eq!(kubeconfig.contexts().collect::<Vec<_>>(), ["main", "other"]);
    assert_eq!(kubeconfig.select(None).expect("a context").context(), "main");
    assert_eq!(kubeconfig.select(Some("other")).expect("a context").context(), "other");
    refused(
        kubeconfig.select(Some("third")),
        "/etc/x/kubeconfig:10:3: contexts: there is no context \"third\"; there are: \"main\", \"other\"",
    );
}

#[test]
fn what_is_named_must_exist() {
    let text = with_user("");
    refused(
        endpoint(&text.replace("current-context: main", "current-context: away"), &Files::default()),
        "/etc/x/kubeconfig:12:18: current-context: there is no context \"away\"; there are: \"main\"",
    );
    refused(
        endpoint(&text.replace("cluster: prod", "cluster: away"), &Files::default()),
        "/etc/x/kubeconfig:11:22: contexts[0].context.cluster: there is no cluster \"away\"; there are: \"prod\"",
    );
    refused(
        endpoint(&text.replace("user: node}", "user: away}"), &Files::default()),
        "/etc/x/kubeconfig:11:34: contexts[0].context.user: there is no user \"away\"; there are: \"node\"",
    );
    refused(
        endpoint(&text.replace("current-context: main", ""), &Files::default()),
        "/etc/x/kubeconfig:1:1: no current-context is set and none was asked for; there are: \"main\"",
    );
    refused(
        endpoint("kind: Config", &Files::default()),
        "/etc/x/kubeconfig:1:1: no current-context is set and none was asked for; there are: none",
    );
    refused(
        endpoint(&text.replace("cluster: prod, ", ""), &Files::default()),
        "/etc/x/kubeconfig:11:12: contexts[0].context: `cluster` is missing",
    );
}

#[test]
fn what_is_not_a_kubeconfig_is_told_by_line_and_column() {
    for (text, message) in [
        ("", "1:1: the file is empty"),
        ("# nothing\n---\n", "1:1: there is nothing in the file"),
        ("kind: Pod\n", "1:7: kind: expected \"Config\"; this is not a kubeconfig this program knows"),
        ("\napiVersion: v2\n", "2:13: apiVersion: expected \"v1\"; this is not a kubeconfig this program knows"),
        ("just words\n", "1:1: expected a mapping, found text"),
        ("- 1\n", "1:1: expected a mapping, found a list"),
        ("clusters: {}\nusers: 3\n", "2:8: users: expected a list, found a number"),
        ("users:\n- nobody\n", "2:3: users[0]: expected a mapping, found text"),
        ("users:\n- user: {}\n", "2:3: users[0]: `name` is missing"),
        ("users:\n- name: 1\n", "2:9: users[0].name: expected text, found a number; put it in quotes"),
        ("users:\n- name: a\n- name: a\n", "3:9: users[1].name: a second entry is named \"a\"; remove or rename one"),
        ("a: 1\n---\nb: 2\n", "3:1: not valid YAML: a second YAML document begins; keep one"),
        ("a: 1\na: 2\n", "2:1: not valid YAML: this key was already given in the same mapping"),
        ("a: *b\n", "1:4: not valid YAML: this alias has no anchor"),
        ("a: [1, 2\n", "1:4: not valid YAML: unclosed bracket '['"),
        ("a: 'x\n", "1:4: not valid YAML: unclosed quote"),
        ("a:\n\t- b\n", "2:2: not valid YAML: tabs disallowed within this context (block indentation)"),
        ("a: b: c\n", "1:5: not valid YAML: mapping values are not allowed in this context"),
    ] {
        refused(parse(text), &format!("{PATH}:{message}"));
    }
}

#[test]
fn deep_nesting_and_alias_bombs_are_refused() {
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for n in 1..20 {
        let aliases = format!("*a{}, ", n - 1).repeat(10);
        writeln!(bomb, "a{n}: &a{n} [{aliases}]").expect("a String");
    }
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for n in 1..100 {
        writeln!(chain, "a{n}: &a{n} [*a{}]", n - 1).expect("a String");
    }
    for text in ["[".repeat(10_000), "{a: ".repeat(10_000), "- ".repeat(10_000), bomb, chain] {
        let message = parse(&text).expect_err("refused").to_string();
        assert!(message.ends_with("deeply nested") || message.ends_with("recursion limit exceeded"), "{message}");
    }
}

#[test]
fn a_server_is_reached_by_https_only() {
    for (cluster, message) in [
        ("", "4:3: clusters[0]: `cluster` is missing"),
        ("tls-server-name: a", "5:12: clusters[0].cluster: `server` is missing"),
        (
            "server: 'http://h'",
            "5:21: clusters[0].cluster.server: plain HTTP is not supported, it would show the credentials to anyone; \
             use https://",
        ),
        ("server: 'h:6443'", "5:21: clusters[0].cluster.server: expected an address like https://10.0.0.1:6443"),
        ("server: 'https:///x'", "5:21: clusters[0].cluster.server: expected an address like https://10.0.0.1:6443"),
        ("server: 'https://h x'", "5:21: clusters[0].cluster.server: expected an address like https://10.0.0.1:6443"),
        ("server: 'https://u:p@h'", "5:21: clusters[0].cluster.server: credentials do not belong in the address"),
        (
            "server: 'https://h', tls-server-name: 'a b'",
            "5:51: clusters[0].cluster.tls-server-name: this is neither a DNS name nor an IP address",
        ),
        ("server: [a]", "5:21: clusters[0].cluster.server: expected text, found a list"),
        (
            "server: 'https://h', insecure-skip-tls-verify: 'true'",
            "5:60: clusters[0].cluster.insecure-skip-tls-verify: expected true or false, found text",
        ),
        (
            "server: 'https://h', proxy-url: 'http://p'",
            "5:45: clusters[0].cluster.proxy-url of \"prod\": proxies are not supported; remove the field if the \
             server can be reached directly",
        ),
    ] {
        refused(endpoint(&config(cluster, ""), &Files::default()), &format!("{PATH}:{message}"));
    }
}

#[test]
fn verification_is_skipped_only_without_an_authority() {
    let skip = "server: 'https://h', insecure-skip-tls-verify: true";
    let skipping = endpoint(&config(skip, ""), &Files::default()).expect("an endpoint");
    assert!(skipping.insecure_skip_tls_verify && skipping.ca_pem.is_none());
    refused(
        endpoint(&config(&format!("{skip}, certificate-authority: /ca"), ""), &Files::default().with("/ca", CA)),
        "/etc/x/kubeconfig:5:60: clusters[0].cluster.insecure-skip-tls-verify: verification cannot be both skipped \
         and done with certificate-authority; remove one",
    );
}

#[test]
fn an_unusable_authority_is_told_with_its_source() {
    let cluster = |field: &str| config(&format!("server: 'https://h', {field}"), "");
    refused(
        endpoint(&cluster("certificate-authority: ca.crt"), &Files::default()),
        "/etc/x/kubeconfig:5:57: clusters[0].cluster.certificate-authority (/etc/x/ca.crt): cannot be read: \
         No such file or directory (os error 2)",
    );
    refused(
        endpoint(&cluster("certificate-authority-data: '!!'"), &Files::default()),
        "/etc/x/kubeconfig:5:62: clusters[0].cluster.certificate-authority-data: this is not base64",
    );
    let why = Roots::from_pem(b"hello").expect_err("no authority");
    refused(
        endpoint(&cluster("certificate-authority: ca.crt"), &Files::default().with("/etc/x/ca.crt", "hello")),
        &format!("/etc/x/kubeconfig:5:57: clusters[0].cluster.certificate-authority (/etc/x/ca.crt): {why}"),
    );
    refused(
        endpoint(&cluster("certificate-authority-data: aGVsbG8="), &Files::default()),
        &format!("/etc/x/kubeconfig:5:62: clusters[0].cluster.certificate-authority-data: {why}"),
    );
}

#[test]
fn unsupported_credentials_are_refused_by_name() {
    let instead = "use a client certificate, token or tokenFile";
    let basic = format!("basic authentication is not supported; {instead}");
    let own = "impersonation is not supported; use credentials of that user's own";
    for (user, message) in [
        (
            "exec: {command: aws}",
            format!("16: users[0].user.exec of \"node\": exec plugins are not supported; {instead}"),
        ),
        (
            "auth-provider: {name: gcp}",
            format!("25: users[0].user.auth-provider of \"node\": auth providers are not supported; {instead}"),
        ),
        ("username: u, password: p", format!("20: users[0].user.username of \"node\": {basic}")),
        ("password: p", format!("20: users[0].user.password of \"node\": {basic}")),
        ("token: t, as: root", format!("24: users[0].user.as of \"node\": {own}")),
        ("as-groups: [a]", format!("21: users[0].user.as-groups of \"node\": {own}")),
    ] {
        refused(parse(&with_user(user)).expect("a kubeconfig").select(None), &format!("{PATH}:8:{message}"));
    }
}

#[test]
fn an_unsupported_user_of_another_context_does_no_harm() {
    let text = with_user("token: t").replace("contexts:", "- {name: other, user: {exec: {command: aws}}}\ncontexts:");
    assert_eq!(token(identity(&text, &Files::default())), "t");
}

#[test]
fn unusable_credentials_are_told_with_their_source() {
    let files = || {
        Files::default()
            .with("/n.crt", NODE)
            .with("/n.key", NODE_KEY)
            .with("/hello", "hello")
            .with("/binary", [0xff, 0xfe])
    };
    for (user, message) in [
        ("token: 'two words'", "17: users[0].user.token: this is not a bearer token"),
        ("token: 12345", "17: users[0].user.token: expected text, found a number; put it in quotes"),
        (
            "tokenFile: token",
            "21: users[0].user.tokenFile (/etc/x/token): cannot be read: No such file or directory (os error 2)",
        ),
        ("tokenFile: /binary", "21: users[0].user.tokenFile (/binary): this file does not hold a bearer token"),
        ("client-certificate: /n.crt", "9: users[0].user: there is a client certificate but no client key"),
        ("client-key: /n.key", "9: users[0].user: there is a client key but no client certificate"),
        (
            "token: t, client-certificate: /n.crt, client-key: /n.key",
            "9: users[0].user: there is a token and a client certificate; keep one of them",
        ),
        (
            "client-certificate: /gone, client-key: /n.key",
            "30: users[0].user.client-certificate (/gone): cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        refused(identity(&with_user(user), &files()), &format!("{PATH}:8:{message}"));
    }

    let not_a_chain = Chain::from_pem(b"hello").expect_err("no chain");
    refused(
        identity(&with_user("client-certificate: /hello, client-key: /n.key"), &files()),
        &format!("{PATH}:8:30: users[0].user.client-certificate (/hello): {not_a_chain}"),
    );
    for (file, content) in [("/hello", "hello"), ("/binary", "")] {
        let not_a_key = KeyPair::from_pem(content).expect_err("no key");
        refused(
            identity(&with_user(&format!("client-certificate: /n.crt, client-key: {file}")), &files()),
            &format!("{PATH}:8:50: users[0].user.client-key ({file}): {not_a_key}"),
        );
    }
}

#[test]
fn a_key_of_another_certificate_is_told_with_both_sources() {
    let other = KeyPair::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let files = Files::default().with("/n.crt", NODE).with("/other.key", &*other.to_pem());
    let inline = format!("client-certificate: /n.crt, client-key-data: {}", STANDARD.encode(&*other.to_pem()));
    let why = Credential::new(Chain::from_pem(NODE.as_bytes()).expect("a chain"), Arc::new(other));
    let why = why.expect_err("another key");
    refused(
        identity(&with_user("client-certificate: /n.crt, client-key: /other.key"), &files),
        &format!(
            "{PATH}:8:30: users[0].user.client-certificate (/n.crt) and \
             {PATH}:8:50: users[0].user.client-key (/other.key): {why}"
        ),
    );
    refused(
        identity(&with_user(&inline), &files),
        &format!(
            "{PATH}:8:30: users[0].user.client-certificate (/n.crt) and \
             {PATH}:8:55: users[0].user.client-key-data: {why}"
        ),
    );
}

#[test]
fn neither_errors_nor_debug_show_what_the_file_holds() {
    let secret = "S3cretS3cret";
    let texts = [
        format!("users:\n- {secret}\n"),
        format!("users: {secret}\n"),
        format!("{secret}\n"),
        format!("token: {secret}: x\n"),
        format!("token: *{secret}\n"),
        format!("token: &{secret}\n  {secret}: 1\n {secret}\n"),
        format!("{secret}: 1\n{secret}: 2\n"),
        format!("token: !{secret}!{secret} x\n"),
        format!("token: \"{secret}\\q\"\n"),
        format!("token: '{secret}\n"),
        format!("? [{secret}]\n: x\n"),
        format!("%{secret} {secret}\n---\na: b\n"),
        // Quotes that are not closed where they should be.
        with_user(&format!("token: {secret}")).replace("prod\n", "'prod\n  x: 1\n").replace(": {server: '", ": "),
        with_user("").replace("name: node", &format!("name: \"node\n  {secret}\"")),
        with_user(&format!("tokenFile: '/x\n      token: {secret}'")),
        with_user(&format!("tokenFile: /x\n      token:{secret}")),
        with_user("exec: {a: b}").replace("node", &format!("'node\n       token: {secret}'")),
        with_user(&format!("token: '{secret} {secret}'")),
        with_user(&format!("token: [{secret}]")),
        with_user(&format!("exec: {{args: [{secret}]}}")),
        with_user(&format!("username: u, password: {secret}")),
        with_user(&format!("client-certificate: /n.crt, client-key-data: '{secret}?'")),
        with_user(&format!("client-certificate: /n.crt, client-key-data: {}", STANDARD.encode(secret))),
        config(&format!("server: 'https://u:{secret}@h'"), ""),
        config(&format!("server: 'https://h\n     x: {secret}'"), ""),
    ];
    for text in texts {
        let files = Files::default().with("/n.crt", NODE);
        let error = identity(&text, &files).err().or_else(|| endpoint(&text, &files).err()).expect("refused");
        assert!(!format!("{error} {error:?}").contains("S3cret"), "{error} {error:?}");
    }

    let text = with_user(&format!("token: {secret}"));
    let kubeconfig = parse(&text).expect("a kubeconfig");
    let selected = kubeconfig.select(None).expect("a context");
    let credentials = selected.identity(&mut |path| Files::default().read(path)).expect("a token");
    assert_eq!(
        format!("{kubeconfig:?} {selected:?} {credentials:?}"),
        "Kubeconfig { path: \"/etc/x/kubeconfig\", .. } Selected { path: \"/etc/x/kubeconfig\", .. } Token(..)"
    );
}

fn written_endpoint() -> Endpoint {
    Endpoint {
        server: "https://10.0.0.1:6443".into(),
        ca_pem: Some(CA.into()),
        ca_file: None,
        tls_server_name: Some("kubernetes.default".into()),
        insecure_skip_tls_verify: false,
    }
}

#[test]
fn the_kubeconfig_of_a_node_names_the_rotating_file_twice() {
    let endpoint = Endpoint { ca_file: Some("/pki/ca.crt".into()), tls_server_name: None, ..written_endpoint() };
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
fn what_is_written_is_read_back_the_same() {
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
        assert_eq!(parse(&text).expect("a kubeconfig").current_context(), Some("kubelet-bootstrap@kubernetes"));

        let text = kubeconfig_with_certificate(&expected, "yes", &credential);
        assert_eq!(endpoint(&text, &files).expect("an endpoint"), expected);
        assert_eq!(certificate_pem(identity(&text, &files)), NODE);
    }
}

// Of `CN=kubernetes`, good for a hundred years; nothing trusts it.
const CA: &str = "\
-----BEGIN CERTIFICATE-----
MIIBgjCCASegAwIBAgIUWAFGbnsck/9DO3NjoPVvrPxdWtwwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKa3ViZXJuZXRlczAgFw0yNjExMjIxOTAxMzVaGA8yMTI2MTAy
OTE5MDEzNVowFTETMBEGA1UEAwwKa3ViZXJuZXRlczBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABDMOOvUy/hjU7YGAlAuo73HcorFk7kz0AKUXLWwIN1N62+223PNv
wFQ7nE26rD1OhotfPZNWcwy17ag1kZkE8eSjUzBRMB0GA1UdDgQWBBSLe/gU0qP3
D2mtB9Vn4HE7fCtxfTAfBgNVHSMEGDAWgBSLe/gU0qP3D2mtB9Vn4HE7fCtxfTAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQCovBoBboLQra7+z186
mAYctocBguY3/13VrUIeSM9HDgIhAJj5JKtFkUOGMtXJePPPq7fwfsCdw9GtGDEC
QwNTPHVT
-----END CERTIFICATE-----
";

// Of `O=system:nodes, CN=system:node:n1`, and its key.
const NODE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBsTCCAVagAwIBAgIUbvl2UY8m2r5A28SxQLccE9RhaVIwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKa3ViZXJuZXRlczAgFw0yNjExMjIxOTAxMzVaGA8yMTI2MTAy
OTE5MDEzNVowMDEVMBMGA1UECgwMc3lzdGVtOm5vZGVzMRcwFQYDVQQDDA5zeXN0
ZW06bm9kZTpuMTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABHRKdxch7mNNy82f
Lth3d5BC5Lq7/jWfo1Y8fAjqDgoNbgBF4u2CBOjgVMHBBOzGhSIu+cWiGb2vBdGt
WDcN/HSjZzBlMBMGA1UdJQQMMAoGCCsGAQUFBwMCMA4GA1UdDwEB/wQEAwIHgDAd
BgNVHQ4EFgQUTJ5iVJzLo2HPo9pAZFKpsa/I4DcwHwYDVR0jBBgwFoAUi3v4FNKj
9w9prQfVZ+BxO3wrcX0wCgYIKoZIzj0EAwIDSQAwRgIhANAmFjFA8FMucfePvmLS
OeYSGmuUNZl6+xDejh++h7kbAiEAh1fUm9cX4b0gXXZ02BhAIAc+Mht335z83ggL
pxT4tfA=
-----END CERTIFICATE-----
";
const NODE_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2CvdvVDG2dlcRxz9
5iXmXW/oOV0akOFjQfuf2uiNZMWhRANCAAR0SncXIe5jTcvNny7Yd3eQQuS6u/41
n6NWPHwI6g4KDW4AReLtggTo4FTBwQTsxoUiLvnFohm9rwXRrVg3Dfx0
-----END PRIVATE KEY-----
";
