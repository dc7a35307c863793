//! The bundles that are selected, and the CAs that are read from them.

use super::*;

#[test]
fn selection_is_sent_as_field_and_label_selector() {
    for (selection, query) in [
        (BundleSelection::Name("b=1,x".to_owned()), "fieldSelector=metadata.name%3Db%5C%3D1%5C%2Cx"),
        (BundleSelection::of_signer(MESH), "fieldSelector=spec.signerName%3Dexample.com%2Fmesh"),
        (
            BundleSelection::Signer { name: MESH.to_owned(), labels: "live,tier in (a, b)".to_owned() },
            "fieldSelector=spec.signerName%3Dexample.com%2Fmesh&labelSelector=live%2Ctier%20in%20%28a%2C%20b%29",
        ),
    ] {
        let reader = Reader::of(selection);
        let world = reader.until(server(vec![], |_| Reply::stream()), |state| state.read.is_some());
        assert_eq!(world.requests[0].line.split_once('?').unwrap().1, query);
    }
}

#[test]
fn certificates_are_joined_once_each_in_order_of_their_der() {
    let [a, b, c] = pems(["a", "b", "c"]);
    let divisions = [
        vec![bundle("m:1", &format!("{a}{b}{c}"))],
        vec![bundle("m:1", &format!("# CAs\n{c}{a}")), bundle("m:2", &format!("{a}{b}{b}"))],
        vec![bundle("m:3", &a), bundle("m:2", &b), bundle("m:1", &c), bundle("m:4", &a)],
    ];
    let read = divisions.map(|items| {
        let reader = Reader::new();
        reader.until(server(items, |_| Reply::stream()), |state| state.roots.is_some());
        reader.bundles.roots().unwrap()
    });
    assert_eq!(read[0].subjects().count(), 3);
    assert!(read.iter().all(|roots| *roots == read[0]));
}

#[test]
fn bundle_of_another_signer_or_name_is_not_trusted() {
    let [a, b] = pems(["a", "b"]);
    let items = vec![bundle("m:1", &a), bundle_of("example.com/other", "o:1", &b)];
    let reader = Reader::new();
    reader.until(server(items.clone(), |_| Reply::stream()), |state| state.roots.is_some());
    assert_eq!((reader.trusted(), reader.bundles.state().bundles), (subjects(["a"]), 1));
    let reader = Reader::of(BundleSelection::Name("o:1".to_owned()));
    reader.until(server(items, |_| Reply::stream()), |state| state.roots.is_some());
    assert_eq!((reader.trusted(), reader.bundles.state().bundles), (subjects(["b"]), 1));
}

#[test]
fn oldest_served_version_of_api_is_found() {
    let a = pem("a");
    let reader = Reader::new();
    let world = reader.lasting(SECOND, |request| match (request.line.contains("/v1alpha1/"), request.is_watch()) {
        (false, _) => Reply::raw("HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n"),
        (true, false) => list("120", &[bundle("m:1", &a)]),
        (true, true) => Reply::stream(),
    });
    assert_eq!((reader.trusted(), reader.bundles.state().problem), (subjects(["a"]), None));
    let versions: Vec<_> = world.requests.iter().map(|request| request.line.split('/').nth(3).unwrap()).collect();
    assert_eq!(versions, ["v1", "v1beta1", "v1alpha1", "v1alpha1"]);
}

#[test]
fn server_without_api_is_reported_and_asked_seldom() {
    let reader = Reader::new();
    let world = reader.lasting(3600 * SECOND, |_| {
        Reply::raw("HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n")
    });
    let problem = reader.bundles.state().problem.unwrap();
    for part in ["--feature-gates=ClusterTrustBundle=true", "--runtime-config=certificates.k8s.io/v1beta1"] {
        assert!(problem.contains(part), "{problem}");
    }
    // Three versions, every one to two minutes.
    assert!((90..=183).contains(&world.requests.len()), "{}", world.requests.len());
}
