//! Error messages for kubeconfig files that cannot be used.

mod kubeconfig_support;

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubeconfig_support::*;
use perennial_pki::{Chain, Credential, KeyAlgorithm, KeyPair, Roots};

#[test]
fn error_names_missing_context_cluster_or_user() {
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
        "/etc/x/kubeconfig:1:1: no current-context is set, and no context was chosen; the contexts are: \"main\"",
    );
    refused(
        endpoint("kind: Config", &Files::default()),
        "/etc/x/kubeconfig:1:1: no current-context is set, and no context was chosen; the contexts are: none",
    );
    refused(
        endpoint(&text.replace("cluster: prod, ", ""), &Files::default()),
        "/etc/x/kubeconfig:11:12: contexts[0].context: `cluster` is missing",
    );
}

#[test]
fn text_that_is_no_kubeconfig_is_refused_with_place() {
    for (text, message) in [
        ("", "1:1: the file is empty"),
        ("# nothing\n---\n", "1:1: the file holds no YAML document"),
        (
            "kind: Pod\n",
            "1:7: kind: expected \"Config\"; perennial reads kubeconfigs of kind Config and apiVersion v1 only",
        ),
        (
            "\napiVersion: v2\n",
            "2:13: apiVersion: expected \"v1\"; perennial reads kubeconfigs of kind Config and apiVersion v1 only",
        ),
        ("just words\n", "1:1: expected a mapping, found text"),
        ("- 1\n", "1:1: expected a mapping, found a list"),
        ("clusters: {}\nusers: 3\n", "2:8: users: expected a list, found a number"),
        ("users:\n- nobody\n", "2:3: users[0]: expected a mapping, found text"),
        ("users:\n- user: {}\n", "2:3: users[0]: `name` is missing"),
        ("users:\n- name: 1\n", "2:9: users[0].name: expected text, found a number; put it in quotes"),
        ("users:\n- name: a\n- name: a\n", "3:9: users[1].name: a second entry is named \"a\"; remove or rename one"),
        ("kind: Config\nkind: Pod\n", "2:7: kind: this key has another value in line 1; keep one of them"),
        ("---\n---\n# nothing\n---\n", "1:1: the file holds no YAML document"),
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

/// From the field, a server URL with an IPv6 address without brackets:
/// <https://github.com/Netcracker/KubeMarine/pull/421>, <https://github.com/openshift/hypershift/pull/3097>
#[test]
fn unusable_field_of_cluster_is_refused_with_its_place() {
    for (cluster, message) in [
        ("", "4:3: clusters[0]: `cluster` is missing"),
        ("tls-server-name: a", "5:12: clusters[0].cluster: `server` is missing"),
        (
            "server: 'http://h'",
            "5:21: clusters[0].cluster.server: plain HTTP is not supported, it would show the credentials to anyone; \
             use https://",
        ),
        (
            "server: 'h:6443'",
            "5:21: clusters[0].cluster.server: it has no scheme; expected an address like https://10.0.0.1:6443",
        ),
        ("server: 'https:///x'", "5:21: clusters[0].cluster.server: the host is neither a DNS name nor an IP address"),
        ("server: 'https://h x'", "5:21: clusters[0].cluster.server: the host is neither a DNS name nor an IP address"),
        (
            "server: 'https://fd00::1:6443'",
            "5:21: clusters[0].cluster.server: an IPv6 address needs brackets, as in https://[fd00::1]:6443",
        ),
        ("server: 'https://h:port'", "5:21: clusters[0].cluster.server: the port is not a number from 1 to 65535"),
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
            "server: 'https://h', proxy-url: 'socks5://u:secret@p'",
            "5:45: clusters[0].cluster.proxy-url: proxy-url cannot be used: only HTTP proxies are supported \
             (http://host:port); TLS to the API server runs through them end to end",
        ),
    ] {
        refused(endpoint(&config(cluster, ""), &Files::default()), &format!("{PATH}:{message}"));
    }
}

#[test]
fn insecure_skip_tls_verify_with_ca_is_refused() {
    let skip = "server: 'https://h', insecure-skip-tls-verify: true";
    let skipping = endpoint(&config(skip, ""), &Files::default()).expect("an endpoint");
    assert!(skipping.insecure_skip_tls_verify && skipping.ca_pem.is_none());
    refused(
        endpoint(&config(&format!("{skip}, certificate-authority: /ca"), ""), &Files::default().with("/ca", CA)),
        "/etc/x/kubeconfig:5:60: clusters[0].cluster.insecure-skip-tls-verify: insecure-skip-tls-verify and \
         certificate-authority exclude each other; remove one",
    );
}

#[test]
fn error_names_place_of_unusable_ca() {
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
    for (field, place) in [
        ("certificate-authority: ''", "57: clusters[0].cluster.certificate-authority"),
        ("certificate-authority: ~", "57: clusters[0].cluster.certificate-authority"),
        ("certificate-authority-data: ''", "62: clusters[0].cluster.certificate-authority-data"),
    ] {
        let why = "this is empty; set the cluster's CA or remove the field";
        refused(endpoint(&cluster(field), &Files::default()), &format!("{PATH}:5:{place}: {why}"));
    }
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
fn unsupported_credential_is_refused_naming_its_field() {
    let instead = "use a client certificate, token or tokenFile";
    let basic = format!("basic authentication is not supported; {instead}");
    let own = "impersonation is not supported; use the credential of that user";
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
        ("token: t, password: p", format!("30: users[0].user.password of \"node\": {basic}")),
        (
            "tokenFile: t, client-certificate: a, client-key: b, username: u",
            format!("72: users[0].user.username of \"node\": {basic}"),
        ),
        ("token: t, as: root", format!("24: users[0].user.as of \"node\": {own}")),
        ("as-groups: [a]", format!("21: users[0].user.as-groups of \"node\": {own}")),
    ] {
        refused(parse(&with_user(user)).expect("a kubeconfig").select(None), &format!("{PATH}:8:{message}"));
    }
}

#[test]
fn unsupported_user_of_other_context_is_ignored() {
    let text = with_user("token: t").replace("contexts:", "- {name: other, user: {exec: {command: aws}}}\ncontexts:");
    assert_eq!(token(identity(&text, &Files::default())), "t");
}

#[test]
fn error_names_place_of_unusable_credential() {
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
    for (file, content) in [("/hello", &b"hello"[..]), ("/binary", b"\xff\xfe")] {
        let not_a_key = KeyPair::from_pem(content).expect_err("no key");
        refused(
            identity(&with_user(&format!("client-certificate: /n.crt, client-key: {file}")), &files()),
            &format!("{PATH}:8:50: users[0].user.client-key ({file}): {not_a_key}"),
        );
    }
}

#[test]
fn error_of_mismatched_key_names_both_places() {
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
fn errors_and_debug_hide_file_content() {
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
        // Unclosed quotes.
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
        "Kubeconfig { path: \"/etc/x/kubeconfig\", .. } Selected { path: \"/etc/x/kubeconfig\", .. } Token(…)"
    );
}
