//! Texts: errors, descriptions, stable names, and escaping.

use std::collections::BTreeSet;

use perennial::{Escaped, Failure, Fingerprint, Instant, Reason, RequestId, SignerStatus, State, UnixTime, Validity};
use perennial_tests::mint;

#[test]
fn empty_validity_error_shows_both_times() {
    let error = Validity::new(UnixTime::from_secs(86_400), UnixTime::from_secs(0)).unwrap_err().to_string();
    assert!(error.contains("1970-01-02T00:00:00Z") && error.contains("1970-01-01T00:00:00Z"), "{error}");
}

#[test]
fn time_is_read_as_it_is_shown() {
    // 0000-01-01 to 9999-12-31, in steps that reach each day of the year, and each part of a day.
    for millis in (-62_167_219_200_000..253_402_300_800_000_i64).step_by(7_654_321_987) {
        let time = UnixTime::from_millis(millis);
        assert_eq!(time.to_string().parse(), Ok(time), "{time}");
    }
    for (text, seconds, millis) in [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("2000-02-29T23:59:59Z", 951_868_799, 0),
        ("2026-01-01t12:00:00z", 1_767_268_800, 0),
        ("2026-01-01T13:30:00+01:30", 1_767_268_800, 0),
        ("2025-12-31T18:30:00.25-17:30", 1_767_268_800, 250),
        ("2026-01-01T12:00:00.5Z", 1_767_268_800, 500),
        ("2026-01-01T12:00:00.123999999Z", 1_767_268_800, 123),
        ("1969-12-31T23:59:59.999Z", -1, 999),
    ] {
        assert_eq!(text.parse(), Ok(UnixTime::from_millis(seconds * 1000 + millis)), "{text}");
    }
}

#[test]
fn text_that_is_no_time_in_rfc_3339_is_refused() {
    for text in [
        "",
        "soon",
        "2026-01-01",
        "2026-01-01T12:00:00",
        "2026-01-01 12:00:00Z",
        "2026-01-01T12:00Z",
        "2026-1-01T12:00:00Z",
        "02026-01-01T12:00:00Z",
        "+026-01-01T12:00:00Z",
        "2026-00-01T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-01-00T12:00:00Z",
        "2026-04-31T12:00:00Z",
        "2026-02-29T12:00:00Z",
        "2100-02-29T12:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T12:60:00Z",
        "2026-01-01T12:00:60Z",
        "2026-01-01T12:00:00.Z",
        "2026-01-01T12:00:00,5Z",
        "2026-01-01T12:00:00.5",
        "2026-01-01T12:00:00+01",
        "2026-01-01T12:00:00+0100",
        "2026-01-01T12:00:00+24:00",
        "2026-01-01T12:00:00+01:60",
        "2026-01-01T12:00:00ZZ",
        "2026-01-01T12:00:00Z ",
        "٢026-01-01T12:00:00Z",
        "2026-01-01T12:00:0٠Z",
    ] {
        let error = text.parse::<UnixTime>().unwrap_err().to_string();
        assert!(error.contains("RFC 3339"), "{text}");
    }
}

#[test]
fn failure_display_is_its_unique_description() {
    let shown: BTreeSet<String> = Failure::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(shown, Failure::ALL.iter().map(|failure| failure.describe().to_owned()).collect());
    assert_eq!(shown.len(), Failure::ALL.len());
}

/// Dashboards, scripts and journals rely on these names: names may be added, but none may change.
#[test]
fn released_names_of_failures_reasons_and_states_never_change() {
    assert_eq!(
        Failure::ALL.map(Failure::name).join(" "),
        "denied signer_failed rejected bad_certificate unsatisfying already_due unauthorized forbidden throttled \
         unreachable timed_out deleted outdated unsupported_key local"
    );
    assert_eq!(
        Reason::ALL.map(Reason::name).join(" "),
        "no_certificate expired provisional rotation_point refused template_not_satisfied asked"
    );

    let (reason, last, until) = (Reason::Expired, Failure::Denied, Instant::from_millis(0));
    assert_eq!(SignerStatus::ALL.map(SignerStatus::name), ["absent", "not_ready", "ready", "shared"]);
    let id = RequestId::new(std::num::NonZeroU64::MIN);
    let states = [
        (State::NotEnabled, "not_enabled"),
        (State::NoTemplate, "no_template"),
        (State::Scheduled { rotate_at: UnixTime::from_secs(0) }, "resting"),
        (State::Requesting { id, reason, until }, "requesting"),
        (State::BackingOff { reason, until, failures: 1, last }, "backing_off"),
        (State::Waiting { reason, until }, "waiting"),
        (State::NoIdentity { reason }, "no_identity"),
        (State::Queued { reason }, "queued"),
    ];
    assert_eq!(states.map(|(state, _)| state.name()), states.map(|(_, name)| name));
    assert_eq!(states.map(|(_, name)| name), State::NAMES);
}

#[test]
fn fingerprint_display_shows_four_bytes_and_hex_format_all() {
    let mut bytes = [0xab; 32];
    bytes[0] = 0x01;
    let fingerprint = Fingerprint(bytes);
    assert_eq!((format!("{fingerprint}"), format!("{fingerprint:?}")), ("01ababab".into(), "01ababab".into()));
    assert_eq!(format!("{fingerprint:x}"), format!("01{}", "ab".repeat(31)));
}

#[test]
fn certificate_debug_shows_facts() {
    let template = perennial::Template::node("worker-1");
    let certificate = mint::certificate(&template, 7, mint::EPOCH, std::time::Duration::from_secs(3600));
    let shown = format!("{certificate:?}");
    for fact in ["system:node:worker-1", "system:nodes", "not_before"] {
        assert!(shown.contains(fact), "{shown}");
    }
}

/// `Escaped` escapes each character that a terminal obeys or does not show: in one form for text, in another for JSON.
/// All other characters stay.
#[test]
fn only_control_and_invisible_characters_are_escaped() {
    let table = [
        ("a\nb\r\t", r"a\nb\r\t", r"a\u000ab\u000d\u0009"),
        ("\u{1b}[31m\u{7}\u{0}", r"\u{1b}[31m\u{7}\u{0}", r"\u001b[31m\u0007\u0000"),
        ("\u{7f}\u{9b}31m", r"\u{7f}\u{9b}31m", r"\u007f\u009b31m"),
        (
            "\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}",
            r"\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}",
            r"\u202e\u2066\u200b\ufeff\u2028",
        ),
        ("ä ∂ 节点 \\n \"x\"", "ä ∂ 节点 \\n \"x\"", "ä ∂ 节点 \\n \"x\""),
    ];
    for (text, escaped, json) in table {
        assert_eq!((format!("{}", Escaped(text)), format!("{:#}", Escaped(text))), (escaped.into(), json.into()));
    }
    assert_eq!(perennial::printable(" a\n\tb\u{7}\x1b[1m "), r"a b\u{7}\u{1b}[1m");
    assert_eq!(perennial::printable(&"ä".repeat(300)).chars().count(), 201);
    let template = perennial::Template::new("a\nb").with_organizations(["o\r"]).with_dns_names(["d\u{1b}"]);
    assert_eq!(template.to_string(), r"CN=a\nb,O=o\r,DNS=d\u{1b}");
}
