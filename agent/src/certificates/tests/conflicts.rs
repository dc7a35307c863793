//! Members that write the same files.

use super::*;

#[test]
fn stores_that_overlap_are_refused() {
    for (a, b, why) in [
        ("bundle: {file: /x}", "bundle: {file: /x}", "certificate a writes /x, too"),
        ("bundle: {file: /x}", "bundle: {file: //x/}", "certificate a writes /x, too"),
        ("files: {certificate: /x, key: /y}", "bundle: {file: /y}", "certificate a writes /y, too"),
        ("bundle: {file: /c}", "files: {certificate: /x, key: /x}", "/x is named twice"),
        (
            "linked: {path: /p}",
            "linked: {path: /p, certificate: b.crt, key: b.key}",
            "certificate a writes /p/..data, too",
        ),
        ("linked: {path: /p}", "bundle: {file: /p/tls.key}", "certificate a writes /p/tls.key, too"),
        (
            "directory: {path: /p, prefix: x}",
            "directory: {path: /p, prefix: x}",
            "certificate a writes /p/x-current.pem, too",
        ),
        ("directory: {path: /p, prefix: x}", "bundle: {file: /p/x-1.pem}", "are for the files of certificate a"),
        ("directory: {path: /p, prefix: x}", "bundle: {file: /p/x.key}", "are for the files of certificate a"),
        ("directory: {path: /p/q, prefix: x}", "bundle: {file: /p}", "/p is a directory of certificate a"),
        ("linked: {path: /p}", "directory: {path: /p, prefix: x}", "lies in the directory of certificate a, whose"),
        ("files: {certificate: /c, key: /p/k}", "linked: {path: /p}", "lies in the directory of certificate b, whose"),
        ("bundle: {file: /k}", "bundle: {file: /b}", "certificate a writes /k; name a file that no"),
        ("bundle: {file: /etc/perennial/certificates.yaml}", "bundle: {file: /b}", "is this certificate list"),
    ] {
        let text = members(&[("a", &format!("store: {{{a}}}")), ("b", &format!("store: {{{b}}}"))]);
        let faults = parse(&text).expect_err(&text);
        assert!(faults.iter().all(|fault| fault.contains("store") || fault.contains("/k")), "{faults:#?}");
        assert!(faults.iter().any(|fault| fault.contains(why)), "{a} {b}: {faults:#?}");
    }
    for (a, b) in [
        ("directory: {path: /p, prefix: x}", "directory: {path: /p, prefix: x-y}"),
        ("directory: {path: /p, prefix: x}", "bundle: {file: /p/xy.pem}"),
        ("linked: {path: /p}", "linked: {path: /p/q}"),
        ("files: {certificate: /p/a, key: /p/b}", "files: {certificate: /p/c, key: /p/d}"),
    ] {
        let text = members(&[("a", &format!("store: {{{a}}}")), ("b", &format!("store: {{{b}}}"))]);
        assert!(parse(&text).is_ok(), "{a} {b}: {:#?}", parse(&text));
    }
}

#[test]
fn members_with_other_errors_are_compared_too() {
    let store = "store: {bundle: {file: /x}}, access: {mode: 0666}";
    let faults = parse(&members(&[("a", store), ("b", store), ("c", "after: [d]")])).unwrap_err();
    for why in ["certificate a: access.mode", "certificate a writes /x, too", "has the name d"] {
        assert!(faults.iter().any(|fault| fault.contains(why)), "{why}: {faults:#?}");
    }
}

#[test]
fn members_that_write_one_file_conflict_whatever_its_mode() {
    let member = |name: &str, fields: &str| parse(&members(&[(name, fields)])).unwrap().members.remove(0);
    let before = member("a", "store: {bundle: {file: /x}}");
    for (name, fields, conflicts) in [
        ("b", "store: {bundle: {file: /x}}, access: {mode: 0640}", true),
        ("b", "store: {files: {certificate: /y, key: /x}}", true),
        ("a", "store: {bundle: {file: /y}}", true),
        ("b", "store: {bundle: {file: /y}}", false),
    ] {
        assert_eq!(before.conflicts_with(&member(name, fields)), conflicts, "{name}: {fields}");
    }
}
