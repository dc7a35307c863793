//! The pair that `perennial run` would start with or, if no pair is usable, the gravest problem of the directory. Also
//! the verdict of `status` on the pair or problem.

use std::fs;
use std::path::Path;

use perennial::{Certificate, Policy, Renewal, UnixTime, rotation_point};
use perennial_pki::{Chain, CredentialError};
use perennial_rotation::{DirectoryError, Loaded};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::remedies::{is_harmless, is_unreadable};
use crate::report;
use crate::spans::words;

/// The best pair of a directory, or the reason why no pair is usable.
pub(super) enum Found {
    /// The directory has no pair, and no file that should hold one.
    Nothing,
    /// A file that holds no usable pair or cannot be read.
    Bad {
        /// Name of the state in JSON.
        state: &'static str,
        /// `None` if the problem is about the directory as a whole.
        file: Option<String>,
        why: String,
    },
    Certificate {
        file: String,
        chain: Chain,
        key_matches: bool,
    },
}

/// The verdict on a certificate. `status` exits with 0 only if each verdict is `good`.
pub(super) struct Verdict {
    /// Name of the state in JSON.
    pub(super) state: &'static str,
    /// The state as a sentence.
    pub(super) words: String,
    pub(super) good: bool,
    pub(super) rotate_at: Option<UnixTime>,
}

/// Chooses what `status` shows: the best pair or, if no pair is usable, the gravest problem.
pub(super) fn find(loaded: &Loaded) -> Found {
    if let Some((credential, path)) = &loaded.credential {
        return Found::Certificate { file: shown(path), chain: credential.chain().clone(), key_matches: true };
    }
    // Harmless problems, such as permissions, are about a pair that is usable.
    let gravest = loaded.problems.iter().find(|problem| !is_harmless(problem));
    let Some(problem) = gravest else { return Found::Nothing };
    let (path, why) = match problem {
        DirectoryError::Credential { path, error } => {
            let mixed = matches!(error, CredentialError::KeyMismatch { .. });
            // The file holds the key as well, which is wiped from memory.
            let text = mixed.then(|| fs::read(path).ok().map(Zeroizing::new)).flatten();
            if let Some(chain) = text.and_then(|text| Chain::from_pem(&text).ok()) {
                return Found::Certificate { file: shown(path), chain, key_matches: false };
            }
            (Some(path), error.to_string())
        }
        DirectoryError::Io { path, .. }
        | DirectoryError::Expired { path }
        | DirectoryError::Untrusted { path, .. }
        | DirectoryError::Foreign { path, .. }
        | DirectoryError::MountPoint { path } => (Some(path), problem.to_string()),
        // The problem is about the directory as a whole, or harmless.
        _ => (None, problem.to_string()),
    };
    let state = match problem {
        DirectoryError::Untrusted { .. } => "untrusted",
        DirectoryError::Credential { error, .. } if error.is_unsupported() => "unsupported",
        problem if is_unreadable(problem) => "damaged",
        _ => "unreadable",
    };
    Found::Bad { state, file: path.map(|path| shown(path)), why }
}

/// The names from which a rotation draws its rotation points.
#[derive(Clone, Copy)]
pub(super) struct Drawn<'a> {
    pub(super) signer_name: &'a str,
    /// `None`: the common name of the certificate.
    pub(super) name: Option<&'a str>,
}

impl Found {
    pub(super) fn chain(&self) -> Option<&Chain> {
        if let Self::Certificate { chain, .. } = self { Some(chain) } else { None }
    }

    /// The file of the pair or of the problem; `None` if there is no such file.
    pub(super) fn file(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Bad { file, .. } => file.as_deref(),
            Self::Certificate { file, .. } => Some(file),
        }
    }

    /// The verdict on the pair or problem. The rotation point in the verdict is that of `renewal`, if the signer's hint
    /// was about this certificate, and else follows from `policy`, `drawn` and the certificate. `request` is a clause
    /// about the request for a new certificate, and is added to the verdict's sentence.
    pub(super) fn verdict(
        &self,
        policy: &Policy,
        drawn: Drawn<'_>,
        renewal: Option<Renewal>,
        request: Option<&str>,
        now: UnixTime,
    ) -> Verdict {
        let by_window = |facts: &Certificate| {
            let name = drawn.name.unwrap_or_else(|| facts.common_name());
            rotation_point(policy, perennial::seed(drawn.signer_name, name), facts)
        };
        let hinted = |facts: &Certificate| renewal.and_then(|renewal| renewal.rotation_point_of(facts));
        let rotation_point = |facts: &Certificate| hinted(facts).unwrap_or_else(|| by_window(facts));
        let verdict = self.verdict_alone(rotation_point, request.is_some(), now);
        let more = request.map(|request| format!("; {request}")).unwrap_or_default();
        Verdict { words: verdict.words + &more, ..verdict }
    }

    fn verdict_alone(
        &self,
        rotation_point: impl Fn(&Certificate) -> UnixTime,
        requested: bool,
        now: UnixTime,
    ) -> Verdict {
        let bad = |state, words: String| Verdict { state, words, good: false, rotate_at: None };
        let (chain, key_matches) = match self {
            Self::Nothing => return bad("none", "there is no certificate".into()),
            Self::Bad { state, why, .. } => return bad(state, why.clone()),
            Self::Certificate { chain, key_matches, .. } => (chain, *key_matches),
        };
        let facts = chain.certificate();
        let (from, until) = (facts.validity.not_before(), facts.validity.not_after());
        let rotate_at = rotation_point(facts);
        let left = words(until.since(now));
        let verdict = if !key_matches {
            bad("mismatch", "the certificate was issued for another key".into())
        } else if facts.validity.expired(now) {
            bad("expired", format!("expired {} ago", words(now.since(until))))
        } else if now < from {
            bad("not_yet_valid", format!("not valid for another {}: is the clock right?", words(from.since(now))))
        } else if now >= rotate_at {
            bad("due", format!("due for rotation for {}, still valid for {left}", words(now.since(rotate_at))))
        } else {
            // With a pending request, the certificate is replaced when the request is answered, not at the rotation
            // point.
            let rotated = format!("to be rotated in {}; ", words(rotate_at.since(now)));
            let words = format!("good, {}valid for {left}", if requested { "" } else { &rotated });
            Verdict { state: "good", words, good: true, rotate_at: None }
        };
        Verdict { rotate_at: Some(rotate_at), ..verdict }
    }

    pub(super) fn to_json(&self, verdict: &Verdict) -> Value {
        let fields = json!({
            "state": verdict.state,
            "summary": verdict.words,
            "rotate_at": verdict.rotate_at.map(|at| at.to_string()),
        });
        match self {
            Self::Nothing => fields,
            Self::Bad { file, .. } => report::with(fields, json!({ "file": file })),
            Self::Certificate { file, chain, key_matches } => {
                let certificate = report::with(report::certificate(chain), json!({ "key_matches": key_matches }));
                report::with(report::with(fields, json!({ "file": file })), certificate)
            }
        }
    }

    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Bad { file, .. } => file.iter().map(|file| ("file", file.clone())).collect(),
            Self::Certificate { file, chain, key_matches } => {
                let facts = chain.certificate();
                let names = &facts.names;
                let mut lines = vec![("file", file.clone()), ("subject", report::subject(names))];
                lines.extend(names.uris().map(|uri| ("uri", uri.to_owned())));
                lines.extend([
                    ("serial", chain.serial().to_owned()),
                    ("issuer", report::issuer(chain).to_owned()),
                    ("valid from", facts.validity.not_before().to_string()),
                    ("valid until", facts.validity.not_after().to_string()),
                    ("key", if *key_matches { "matches" } else { "does not match" }.into()),
                ]);
                lines
            }
        }
    }
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_of_the_whole_directory_names_no_file() {
        let found = Found::Bad { state: "unreadable", file: None, why: "it is no directory".into() };
        assert_eq!(found.lines(), []);
        let drawn = Drawn { signer_name: "example.com/mesh", name: None };
        let verdict = found.verdict(&Policy::default(), drawn, None, None, UnixTime::default());
        assert_eq!(found.to_json(&verdict)["file"], Value::Null);
    }
}
