//! Names that a template may request, and names that it may not, each with the reason.

use perennial::{Template, TemplateError, is_dns_name};

const LONG: &str = "0123456789012345678901234567890123456789012345678901234567890123";

/// The reason why the template's only name is refused; `""` if the name is accepted.
fn why(template: &Template) -> String {
    match template.check() {
        Ok(()) => String::new(),
        Err(TemplateError::Name { why, .. }) => why.to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn template_without_names_is_refused() {
    assert_eq!(Template::default().check(), Err(TemplateError::Empty));
    assert_eq!(
        TemplateError::Empty.to_string(),
        "cannot request a certificate without names: set a common name, a DNS name or a URI"
    );
    for template in [
        Template::new("a"),
        Template::default().with_organizations(["a"]),
        Template::default().with_dns_names(["a"]),
        Template::default().with_ip_addresses([[127, 0, 0, 1].into()]),
        Template::default().with_uris(["spiffe://a/b"]),
        Template::default().with_organizational_units(["a"]),
        Template::default().with_serial_number("a"),
    ] {
        assert_eq!(template.check(), Ok(()), "{template}");
    }
}

#[test]
fn subject_text_of_64_characters_is_the_longest() {
    let (umlauts, longer) = ("ü".repeat(64), format!("{LONG}x"));
    let each = |text: &str| {
        [
            Template::new(text),
            Template::new("a").with_organizations([text]),
            Template::new("a").with_organizational_units([text]),
        ]
    };
    for template in [LONG, &umlauts, "a b", "*"].iter().flat_map(|text| each(text)) {
        assert_eq!(why(&template), "", "{template}");
    }
    for (text, part) in [(longer.as_str(), "more than 64 characters"), ("a\nb", "control"), ("a\0", "control")] {
        for template in each(text) {
            assert!(why(&template).contains(part), "{template}: {}", why(&template));
        }
    }
    for template in [Template::new("a").with_organizations([""]), Template::new("a").with_organizational_units([""])] {
        assert_eq!(why(&template), "it is empty");
    }
}

/// Kubernetes issues certificates to nodes and service accounts with names of up to 253 characters.
#[test]
fn names_of_kubernetes_users_and_groups_may_exceed_64_characters() {
    let long = |length| "a".repeat(length);
    assert_eq!(Template::node(&long(253)).check(), Ok(()));
    let account = |length| format!("system:serviceaccount:{}:{}", long(63), long(length));
    let group = format!("system:serviceaccounts:{}", long(63));
    assert_eq!(Template::new(account(253)).with_organizations([group]).check(), Ok(()));
    assert!(why(&Template::new(account(254))).contains("64 characters"));
    assert!(why(&Template::new(long(65))).contains("64 characters"));
    assert!(why(&Template::new("a").with_organizations([long(65)])).contains("64 characters"));
    assert!(why(&Template::node("a\u{1b}b")).contains("control character"));
}

#[test]
fn serial_number_is_a_printable_string_of_64_characters() {
    let number = |number: &str| why(&Template::new("a").with_serial_number(number));
    for good in ["A-17", "PID:FXE2000 SN:FTX1234", "'()+,-./:=?", LONG] {
        assert_eq!(number(good), "", "{good}");
    }
    for (bad, part) in
        [("a_b", "PrintableString"), ("a*", "PrintableString"), ("ü", "PrintableString"), ("a\tb", "control character")]
    {
        assert!(number(bad).contains(part), "{bad}: {}", number(bad));
    }
    assert!(number(&format!("{LONG}x")).contains("64 characters"));
}

#[test]
fn dns_name_has_labels_of_letters_digits_and_hyphens() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    for good in ["a", "17", "a.b", "*.a.b", "_srv.a", "xn--bcher-kva.example", "1.2", &label, &longest, "A.b."] {
        assert_eq!(why(&Template::default().with_dns_names([good])), "", "{good}");
    }
    for bad in
        ["", ".", "a..b", "a..", "*", "*a.b", "a.*.b", "-a", "a-.b", "a b", "bücher.example", "a\0", "a/b", "a:1"]
    {
        assert!(!is_dns_name(bad), "{bad}");
        assert!(why(&Template::default().with_dns_names([bad])).contains("labels"), "{bad}");
    }
    for bad in [format!("{label}a"), format!("{longest}a")] {
        assert!(!is_dns_name(&bad), "{bad}");
    }
}

#[test]
fn uri_needs_scheme_and_allowed_characters() {
    let uri = |uri: &str| why(&Template::default().with_uris([uri]));
    for good in ["https://a.example:8443/b?c=d#e", "urn:uuid:f81d4fae-7dec-11d0", "a+b-c.1:x", "https://u@a/%7Eb"] {
        assert_eq!(uri(good), "", "{good}");
    }
    for good in ["https://[2001:db8::1]:443/", "https://a:/", "file:///etc/x", "tag:a@b.example,2026:x..y"] {
        assert_eq!(uri(good), "", "{good}");
    }
    for (bad, part) in [
        ("", "no scheme"),
        ("/a/b", "no scheme"),
        ("1a:b", "its scheme is not"),
        (":b", "its scheme is not"),
        ("a b:c", "its scheme is not"),
        ("a:", "nothing follows"),
        ("a:b c", "characters that a URI must not have"),
        ("a:b\nc", "characters that a URI must not have"),
        ("a:ü", "characters that a URI must not have"),
        ("a:<b>", "characters that a URI must not have"),
        ("a:%7", "characters that a URI must not have"),
        ("a:%zz", "characters that a URI must not have"),
        ("https://a..b/", "empty label"),
        ("https://a./", "empty label"),
        ("https://a:https/", "its port is not a number"),
        ("https://[2001:db8::1]443/", "its port is not a number"),
        ("https://[2001:db8::1/", "no `]`"),
        ("https://u@a%20b/", "escape"),
    ] {
        assert!(uri(bad).contains(part), "{bad:?}: {}", uri(bad));
    }
}

#[test]
fn spiffe_id_must_be_that_of_a_workload() {
    let id = |id: &str| why(&Template::default().with_uris([id]));
    let of_length = |length: usize| format!("spiffe://a.example/{}", "b".repeat(length - "spiffe://a.example/".len()));
    for good in ["spiffe://example.com/payments", "spiffe://a_b-c.1/ns/Default/sa/x_y.z", &of_length(2048)] {
        assert_eq!(id(good), "", "{good}");
    }
    for (bad, part) in [
        ("spiffe://example.com", "no path"),
        ("spiffe://example.com/", "segment of its path"),
        ("spiffe://example.com/a/", "segment of its path"),
        ("spiffe://example.com/a//b", "segment of its path"),
        ("spiffe://example.com/a/../b", "segment of its path"),
        ("spiffe://example.com/a%20b", "segment of its path"),
        ("spiffe://example.com/a?b", "segment of its path"),
        ("spiffe://example.com/a#b", "segment of its path"),
        ("spiffe:///a", "trust domain"),
        ("spiffe://Example.com/a", "trust domain"),
        ("spiffe://example.com:443/a", "trust domain"),
        ("spiffe://user@example.com/a", "trust domain"),
        ("SPIFFE://example.com/a", "lower case"),
        ("spiffe:example.com/a", "begins with spiffe://"),
        (&format!("spiffe://{}/a", "a".repeat(256)), "trust domain"),
        (&of_length(2049), "2048 bytes"),
    ] {
        assert!(id(bad).contains(part), "{bad:?}: {}", id(bad));
    }
    let two = Template::default().with_uris(["spiffe://a.example/b", "https://a.example"]);
    assert!(why(&two).contains("another URI beside a SPIFFE ID"));
}

#[test]
fn template_error_names_kind_and_escapes_name() {
    let error = Template::new("a").with_organizations(["x\u{1b}[1m"]).check().unwrap_err();
    assert_eq!(error.to_string(), r"cannot request the organization `x\u{1b}[1m`: it contains a control character");
}
