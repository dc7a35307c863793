//! Names of failures and reasons in pending records and journals: the stable names of `core`, spelt in `UpperCamelCase`,
//! as all released versions write and read them.

use perennial::{Failure, Reason};

/// The failure's name in files: `TimedOut`.
pub(crate) fn failure(failure: Failure) -> String {
    upper_camel(failure.name())
}

/// The failure with this name in a file; `None` if the name is unknown.
pub(crate) fn failure_named(name: &str) -> Option<Failure> {
    Failure::ALL.into_iter().find(|known| failure(*known) == name)
}

/// The reason's name in files: `RotationPoint`.
pub(crate) fn reason(reason: Reason) -> String {
    upper_camel(reason.name())
}

/// The reason with this name in a file; `None` if the name is unknown.
pub(crate) fn reason_named(name: &str) -> Option<Reason> {
    Reason::ALL.into_iter().find(|known| reason(*known) == name)
}

fn upper_camel(snake: &str) -> String {
    let words = snake.split('_').map(str::chars);
    words.flat_map(|mut word| word.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_files_are_those_released() {
        let failures = Failure::ALL.map(failure).join(" ");
        assert_eq!(
            failures,
            "Denied SignerFailed Rejected BadCertificate Unsatisfying AlreadyDue Unauthorized Forbidden Throttled \
             Unreachable TimedOut Deleted Outdated Local"
        );
        let reasons = Reason::ALL.map(reason).join(" ");
        assert_eq!(reasons, "NoCertificate Expired Provisional RotationPoint Refused TemplateNotSatisfied Asked");
        assert!(Failure::ALL.into_iter().all(|known| failure_named(&failure(known)) == Some(known)));
        assert!(Reason::ALL.into_iter().all(|known| reason_named(&reason(known)) == Some(known)));
        assert_eq!((failure_named("timed_out"), reason_named("")), (None, None));
    }
}
