//! `perennial status`: what a certificate directory holds, and when it will be rotated.

mod pending;

use std::fs;
use std::path::Path;

use perennial::{Policy, UnixTime, rotation_point};
use perennial_pki::{Chain, CredentialError};
use perennial_std::{Directory, DirectoryError, Loaded, clock};
use serde_json::{Value, json};

use crate::cli;
use crate::failure::Failure;
use crate::report::{self, print};
use crate::rotation::{PREFIX, seed_of};
use crate::spans::words;
use pending::Pending;

pub(crate) fn status(options: &cli::Status) -> Result<(), Failure> {
    let directory = Directory::open_existing(&options.cert_dir, PREFIX).map_err(Failure::usage)?;
    let now = clock::now().unix;
    let loaded = directory.load(now).map_err(Failure::usage)?;
    let problems: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    let in_order = loaded.problems.iter().all(|problem| matches!(problem, DirectoryError::Exposed { .. }));
    let found = find(loaded)?;
    let aside: Vec<String> = directory.aside().map_err(Failure::usage)?.iter().map(|path| shown(path)).collect();
    let pending = Pending::find(&directory, found.chain());
    let mut verdict = found.verdict(&options.policy.numbers(), now);
    if verdict.good && !in_order {
        let words = format!("not in order, but `perennial run` will put it right; {}", verdict.words);
        verdict = Verdict { state: "damaged", words, good: false, ..verdict };
    }
    let text = if options.json {
        let more = json!({ "pending": pending.to_json(), "problems": problems, "set_aside": aside });
        report::with(found.to_json(&verdict), more).to_string() + "\n"
    } else {
        let more = pending.to_text(now).into_iter();
        let more = more.chain(problems.into_iter().map(|problem| ("problem", problem)));
        let more = more.chain(aside.into_iter().map(|file| ("set aside", file)));
        found.to_text(&options.cert_dir, &verdict, more.collect(), now)
    };
    print(&text);
    match verdict.good {
        true => Ok(()),
        false => Err(Failure::Failed(format!("{}: {}", options.cert_dir.display(), verdict.words))),
    }
}

/// What was found in the directory.
enum Found {
    Nothing,
    /// A file that does not make a pair.
    Damaged {
        file: String,
        why: String,
    },
    Certificate {
        file: String,
        chain: Chain,
        key_matches: bool,
    },
}

struct Verdict {
    /// For programs.
    state: &'static str,
    /// For people.
    words: String,
    good: bool,
    rotate_at: Option<UnixTime>,
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn find(loaded: Loaded) -> Result<Found, Failure> {
    if let Some((credential, path)) = loaded.credential {
        return Ok(Found::Certificate { file: shown(&path), chain: credential.chain().clone(), key_matches: true });
    }
    // Who else could read it does not matter any more.
    let mut problems = loaded.problems.into_iter().filter(|problem| !matches!(problem, DirectoryError::Exposed { .. }));
    match problems.next() {
        None => Ok(Found::Nothing),
        Some(DirectoryError::Credential { path, error: error @ CredentialError::KeyMismatch { .. } }) => {
            let chain = fs::read(&path).ok().and_then(|text| Chain::from_pem(&text).ok());
            Ok(match chain {
                Some(chain) => Found::Certificate { file: shown(&path), chain, key_matches: false },
                None => Found::Damaged { file: shown(&path), why: error.to_string() },
            })
        }
        Some(DirectoryError::Credential { path, error }) => {
            Ok(Found::Damaged { file: shown(&path), why: error.to_string() })
        }
        Some(error) => Err(Failure::usage(error)),
    }
}

impl Found {
    fn chain(&self) -> Option<&Chain> {
        if let Self::Certificate { chain, .. } = self { Some(chain) } else { None }
    }

    fn verdict(&self, policy: &Policy, now: UnixTime) -> Verdict {
        let bad = |state, words: String| Verdict { state, words, good: false, rotate_at: None };
        let (chain, key_matches) = match self {
            Self::Nothing => return bad("none", "there is no certificate".into()),
            Self::Damaged { why, .. } => return bad("damaged", why.clone()),
            Self::Certificate { chain, key_matches, .. } => (chain, *key_matches),
        };
        let facts = chain.certificate();
        let (from, until) = (facts.validity.not_before(), facts.validity.not_after());
        let rotate_at = rotation_point(policy, seed_of(facts), facts);
        let left = words(until.since(now));
        let verdict = if !key_matches {
            bad("mismatch", "certificate and key do not match: the certificate was issued for another key".into())
        } else if facts.validity.expired(now) {
            bad("expired", format!("expired {} ago", words(now.since(until))))
        } else if now < from {
            bad("not_yet_valid", format!("not valid for another {}: is the clock right?", words(from.since(now))))
        } else if now >= rotate_at {
            bad("due", format!("due for rotation for {}, still valid for {left}", words(now.since(rotate_at))))
        } else {
            let words = format!("good, to be rotated in {}; valid for {left}", words(rotate_at.since(now)));
            Verdict { state: "good", words, good: true, rotate_at: None }
        };
        Verdict { rotate_at: Some(rotate_at), ..verdict }
    }

    fn to_json(&self, verdict: &Verdict) -> Value {
        let fields = json!({
            "state": verdict.state,
            "summary": verdict.words,
            "rotate_at": verdict.rotate_at.map(|at| at.to_string()),
        });
        match self {
            Self::Nothing => fields,
            Self::Damaged { file, .. } => report::with(fields, json!({ "file": file })),
            Self::Certificate { file, chain, key_matches } => {
                let certificate = report::with(report::certificate(chain), json!({ "key_matches": key_matches }));
                report::with(report::with(fields, json!({ "file": file })), certificate)
            }
        }
    }

    fn to_text(&self, directory: &Path, verdict: &Verdict, more: Vec<(&'static str, String)>, now: UnixTime) -> String {
        let mut lines = vec![("directory", directory.display().to_string())];
        match self {
            Self::Nothing => {}
            Self::Damaged { file, .. } => lines.push(("file", file.clone())),
            Self::Certificate { file, chain, key_matches } => {
                let facts = chain.certificate();
                let organizations: String = facts.organizations.iter().map(|name| format!(", O={name}")).collect();
                lines.extend([
                    ("file", file.clone()),
                    ("subject", format!("CN={}{organizations}", facts.common_name)),
                    ("serial", chain.serial().to_owned()),
                    ("issuer", chain.issuer().to_owned()),
                    ("valid from", facts.validity.not_before().to_string()),
                    ("valid until", facts.validity.not_after().to_string()),
                    ("key", if *key_matches { "matches" } else { "does not match" }.into()),
                ]);
            }
        }
        lines.extend(verdict.rotate_at.map(|at| ("rotation at", at.to_string())));
        lines.extend(more);
        lines.extend([("now", now.to_string()), ("state", verdict.words.clone())]);
        lines.iter().map(|(name, value)| format!("{name:<12}{}\n", value.replace(char::is_control, " "))).collect()
    }
}
