//! Names of failures in pending records: the stable names of the `core` crate in `UpperCamelCase`, as all released
//! versions of perennial write and read them.

use perennial::Failure;

/// The failure's name in pending records, such as `TimedOut`.
pub(crate) fn failure(failure: Failure) -> String {
    let words = failure.name().split('_').map(str::chars);
    words.flat_map(|mut word| word.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(word)).collect()
}

/// The failure with this name in a record; `None` if the name is unknown.
pub(crate) fn failure_named(name: &str) -> Option<Failure> {
    Failure::ALL.into_iter().find(|known| failure(*known) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_names_in_records_never_change() {
        let failures = Failure::ALL.map(failure).join(" ");
        assert_eq!(
            failures,
            "Denied SignerFailed Rejected BadCertificate Unsatisfying AlreadyDue Unauthorized Forbidden Throttled \
             Unreachable TimedOut Deleted Outdated UnsupportedKey Local"
        );
        assert!(Failure::ALL.into_iter().all(|known| failure_named(&failure(known)) == Some(known)));
        assert_eq!((failure_named("timed_out"), failure_named("")), (None, None));
    }
}
