//! Answers and bundles that are damaged, hostile, or larger than the limits.

use perennial_rotation::Token;

use super::*;

/// The certificate of a CA, of 84 KiB.
fn large_pem(name: &str) -> String {
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![0; 62 << 10]));
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn state_is_independent_of_portions_of_bytes() {
    let [a, b] = pems(["a", "b"]);
    for portion in [1, 2, 7, 64, 1000, usize::MAX] {
        let reader = Reader::new();
        let script = server(vec![bundle("m:1", &a)], |_| Reply::stream().event("MODIFIED", bundle("m:1", &b)));
        let mut world = reader.scene.world(script).portions(|length| length.min(portion));
        reader.run(&mut world, |_, _| reader.trusted() == subjects(["b"]));
        assert_eq!((world.requests.len(), reader.bundles.state().problem), (2, None), "{portion}");
    }
}

#[test]
fn bad_bundle_is_disregarded_and_its_last_good_cas_stay() {
    let [a, b] = pems(["a", "b"]);
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (bad, why) in [
        (json!(""), "no certificate found"),
        (json!("no PEM"), "no certificate found"),
        (json!(key), "is a PRIVATE KEY; only CERTIFICATE blocks are allowed"),
        (json!(format!("{b}{key}")), "is a PRIVATE KEY; only CERTIFICATE blocks are allowed"),
        (json!(b.replacen("MII", "M!I", 1)), "does not contain plain base64"),
        (json!(&b[..b.len() / 2]), "is cut short"),
        (json!(b.replacen("-----\n", "-----\nName: value\n\n", 1)), "has headers"),
        (json!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "not valid DER"),
        (json!(format!("{b}{}", " ".repeat(1 << 20))), "exceed the limit of 1 MiB"),
        (json!(17), "it cannot be read: invalid type"),
    ] {
        let mut changed = bundle("m:1", "");
        changed["spec"]["trustBundle"] = bad.clone();
        // As the first content of the bundle, and after a good one.
        for is_first in [true, false] {
            let reader = Reader::new();
            let first = if is_first { changed.clone() } else { bundle("m:1", &a) };
            let script = server(vec![first, bundle("m:2", &b)], |_| Reply::stream().event("MODIFIED", &changed));
            reader
                .until(script, |state| state.problem.as_ref().is_some_and(|problem| problem.starts_with("the bundle")));
            let state = reader.bundles.state();
            let problem = state.problem.unwrap();
            assert!(problem.starts_with("the bundle m:1 is disregarded: ") && problem.contains(why), "{problem}");
            let trusted = if is_first { subjects(["b"]) } else { subjects(["a", "b"]) };
            assert_eq!((reader.trusted(), state.bundles), (trusted, 2), "{problem}");
            assert_eq!(state.is_partial, is_first, "{problem}");
            assert_eq!(problem.ends_with("; the CAs that it contained before stay trusted"), !is_first, "{problem}");
        }
    }
}

#[test]
fn bad_bundle_as_only_one_leaves_no_ca() {
    let reader = Reader::new();
    let script = server(vec![bundle("m:1", "none"), bundle("m:2", "none")], |_| Reply::stream());
    reader.until(script, |state| state.problem.is_some());
    assert_eq!(
        reader.bundles.roots().unwrap_err().to_string(),
        "no CA from the ClusterTrustBundles of signer example.com/mesh: the bundle m:1 is disregarded: no certificate \
         found; expected a PEM block CERTIFICATE; 2 bundles are disregarded in all"
    );
}

/// A hostile server, or a proxy that shows the request in its errors.
#[test]
fn problem_hides_echoed_token() {
    const SECRET: &str = "abcdef.0123456789abcdef";
    let identity = Arc::new(Identity::Token(Token::new(SECRET).unwrap()));
    let text = format!("you sent {SECRET}");
    let status = json!({ "kind": "Status", "code": 500, "message": text });
    let bad = bundle(SECRET, "no PEM");
    let error = || Reply::status(500, "InternalError", &text);
    for (what, answer, event) in [
        ("list", Some(error()), Reply::stream()),
        ("refused watch", None, error()),
        ("error event", None, Reply::stream().event("ERROR", &status)),
        ("name", None, Reply::stream().event("ADDED", &bad)),
        ("kind", None, Reply::stream().event("ADDED", json!(SECRET))),
    ] {
        let reader = Reader { identity: identity.clone(), ..Reader::new() };
        let script = |request: &ReceivedRequest| match (request.is_watch(), &answer) {
            (true, _) => event.clone(),
            (false, Some(answer)) => answer.clone(),
            (false, None) => list("120", &[]),
        };
        let quotes = |problem: &String| [SECRET, "[token]"].iter().any(|token| problem.contains(token));
        reader.until(script, |state| state.problem.as_ref().is_some_and(quotes));
        let shown = format!("{:?}", reader.bundles);
        assert!(!shown.contains(SECRET), "{what}: {shown}");
    }
}

#[test]
fn bundles_beyond_limits_are_reported() {
    let a = pem("a");
    let many: Vec<_> = (0..1001).map(|i| bundle(&format!("m:{i}"), &a)).collect();
    let reader = Reader::new();
    reader.until(server(many, |_| Reply::stream()), |state| state.problem.is_some());
    let state = reader.bundles.state();
    assert_eq!(state.problem.unwrap(), "more than 1000 bundles are selected, and only 1000 are used; select fewer");
    assert_eq!((state.bundles, reader.trusted(), state.is_partial), (1000, subjects(["a"]), true));

    let large = a.repeat((1 << 20) / a.len());
    let reader = Reader::new();
    let items: Vec<_> = (0..3).map(|i| bundle(&format!("m:{i}"), &large)).collect();
    reader.until(server(items, |_| Reply::stream()), |state| state.roots.is_some());
    assert_eq!(reader.bundles.state().problem, None, "each certificate is kept once");

    // Five bundles of almost 1 MiB each, whose certificates all differ.
    let pems: Vec<String> = (0..5).map(|i| (0..12).map(|j| large_pem(&format!("{i}.{j}"))).collect()).collect();
    let reader = Reader::new();
    let script = server(vec![bundle("m:0", &pems[0])], |_| {
        let name = |i: usize| format!("m:{i}");
        (1..5).fold(Reply::stream(), |reply, i| reply.event("ADDED", bundle(&name(i), &pems[i])))
    });
    reader.until(script, |state| state.problem.is_some());
    let problem = reader.bundles.state().problem.unwrap();
    assert_eq!(problem, "the bundle m:4 is disregarded: the bundles have more than 4 MiB of certificates");
    assert_eq!(reader.trusted().len(), 48);

    let reader = Reader::new();
    reader.until(|_| Reply::json(200, vec![b' '; 5 << 20]), |state| state.problem.is_some());
    assert_eq!(reader.bundles.state().problem.unwrap(), "the answer is longer than 4 MiB");

    let reader = Reader::new();
    let line = vec![b' '; (3 << 19) + 1];
    let script = server(vec![bundle("m:1", &a)], move |_| {
        let mut reply = Reply::stream();
        reply.pieces.push((SECOND, chunk(&line)));
        reply
    });
    reader.until(script, |state| state.problem.is_some());
    let problem = reader.bundles.state().problem.unwrap();
    assert_eq!(problem, "an event of the watch is longer than 1.5 MiB; the CAs read before stay trusted");
}

/// The connection ends after each number of bytes of the list and of the watch, once. The next list finds what was lost.
#[test]
fn answer_cut_at_any_byte_loses_no_change() {
    let [a, b, c] = pems(["a", "b", "c"]);
    let first = [bundle("m:1", &a), bundle("m:2", &b)];
    let second = [bundle("m:1", &a), bundle("m:2", &c)];
    let watch = || Reply::stream().event("MODIFIED", &second[1]).finish(Duration::ZERO);
    let lengths = [list("120", &first).len(), watch().len()];
    for (is_watch, length) in [false, true].into_iter().zip(lengths).flat_map(|(is_watch, length)| {
        // Each byte of the heads and of the frames; of the certificates, one in 97.
        (0..length).filter(move |at| *at < 160 || *at + 40 > length || at % 97 == 0).map(move |at| (is_watch, at))
    }) {
        let reader = Reader::new();
        let mut is_cut = false;
        reader.until(
            |request| {
                let reply = match (request.is_watch(), is_cut) {
                    (false, false) => list("120", &first),
                    (false, true) => list("130", &second),
                    (true, false) => watch(),
                    (true, true) => Reply::stream(),
                };
                match is_cut || request.is_watch() != is_watch {
                    true => reply,
                    false => {
                        is_cut = true;
                        reply.cut_at(length)
                    }
                }
            },
            |state| state.problem.is_none() && reader.trusted() == subjects(["a", "c"]),
        );
        assert!(is_cut, "watch: {is_watch}, {length}");
    }
}
