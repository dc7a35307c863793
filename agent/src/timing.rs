//! The timing of rotations: reads flags and a policy file, and makes a policy from their values.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use granit_parser::{Event, Marker, Parser};
use perennial::{Backoff, Policy, Window};

use crate::failure::Failure;
use crate::files;
use crate::spans;

/// The timing of rotations and requests, from flags and a policy file.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Timing")]
pub(crate) struct Timing {
    /// A YAML file with the values below, under the keys policy, rotationWindow, requestTimeout, retry and
    /// retryRefused, for example `rotationWindow: 70%-90%`. Flags override its values. SIGHUP reads the file again and
    /// changes the running rotations
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
    #[command(flatten)]
    flags: Values,
}

/// Values of a policy; `None`: not given. Flags and the keys of a policy file have the same names and the same syntax.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Values {
    /// Timing preset; each value below overrides its part [default: default]
    #[arg(long, value_enum)]
    policy: Option<Preset>,
    /// The part of its lifetime in which a certificate is rotated, for example 70%-90%; the point within depends on the
    /// certificate [default: from --policy]
    #[arg(long, value_name = "FROM-TO", value_parser = window)]
    rotation_window: Option<Window>,
    /// How long a request may wait for its certificate, for example 15m. Then perennial retries, with the same key and
    /// CSR unless --policy is kubelet [default: from --policy]
    #[arg(long, value_name = "DURATION", value_parser = spans::parse)]
    request_timeout: Option<Duration>,
    /// First and longest wait after failures other than refusals, such as network errors, for example 1s-2m [default:
    /// from --policy]
    #[arg(long, value_name = "FIRST-MOST", value_parser = retry)]
    retry: Option<Backoff>,
    /// First and longest wait after a refusal (denied, failed or invalid), for example 5m-1h [default: from --policy]
    #[arg(long, value_name = "FIRST-MOST", value_parser = retry_refused)]
    retry_refused: Option<Backoff>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    /// Few requests: waits 15m for approval, 1s-2m after errors, 5m-1h after refusals, rotates at 70%-90%
    Default,
    /// client-go's timing: waits 15m for approval, 2s-32s after any failure, rotates at 70%-90%
    Kubelet,
}

impl Timing {
    /// Reads the policy file, if there is one, and returns the policy.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the file and, for a wrong key or value, line and column.
    pub(crate) fn policy(&self) -> Result<Policy, Failure> {
        let file = self.policy_file.as_deref().map(Values::read).transpose()?.unwrap_or_default();
        Ok(self.flags.clone().or(file).policy())
    }
}

impl Values {
    /// The keys of a policy file.
    pub(crate) const KEYS: [&str; 5] = ["policy", "rotationWindow", "requestTimeout", "retry", "retryRefused"];

    /// Takes each value that is not given here from `other`.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            policy: self.policy.or(other.policy),
            rotation_window: self.rotation_window.or(other.rotation_window),
            request_timeout: self.request_timeout.or(other.request_timeout),
            retry: self.retry.or(other.retry),
            retry_refused: self.retry_refused.or(other.retry_refused),
        }
    }

    /// The policy with these values, and those of the preset where none is given.
    pub(crate) fn policy(self) -> Policy {
        let like = match self.policy {
            None | Some(Preset::Default) => Policy::default(),
            Some(Preset::Kubelet) => Policy::kubelet(),
        };
        Policy {
            window: self.rotation_window.unwrap_or(like.window),
            request_timeout: self.request_timeout.unwrap_or(like.request_timeout),
            transient: self.retry.unwrap_or(like.transient),
            refused: self.retry_refused.unwrap_or(like.refused),
            ..like
        }
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
        let text = files::read_text_once(path).map_err(|error| unusable(&error))?;
        Self::parse(&text).map_err(|error| unusable(&error))
    }

    /// Parses a mapping of keys to values, YAML or JSON. Text without a mapping has no values.
    ///
    /// # Errors
    /// A clause with line and column.
    fn parse(text: &str) -> Result<Self, String> {
        let placed = |why: &str, at: Marker| format!("{why} at line {}, column {}", at.line(), at.col() + 1);
        let (mut values, mut is_begun, mut key) = (Self::default(), false, None);
        for event in Parser::new_from_str_with_options(text, granit_parser::options! { emit_comments: false }) {
            let (event, span) = event.map_err(|error| placed(&error.info(), *error.marker()))?;
            match (event, key.take()) {
                (Event::MappingStart(..), None) if !is_begun => is_begun = true,
                (Event::Scalar(name, ..), None) if is_begun => key = Some((name, span.start)),
                // An empty value counts as absent, as in Kubernetes, and so does an empty document.
                (Event::Scalar(text, ..), _) if ["", "~", "null"].contains(&&*text) => {}
                (Event::Scalar(text, ..), Some((name, at))) => {
                    values.set(&name, &text).map_err(|why| placed(&format!("{name}: {why}"), at))?;
                }
                (Event::MappingStart(..) | Event::SequenceStart(..) | Event::Scalar(..) | Event::Alias(_), _) => {
                    return Err(placed("expected one mapping of keys to text", span.start));
                }
                _ => {}
            }
        }
        Ok(values)
    }

    /// Sets the value of a key of [`KEYS`](Self::KEYS) from its text.
    ///
    /// # Errors
    /// An unknown or repeated key, or a wrong value, as a clause.
    pub(crate) fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        let preset = || Preset::from_str(text, false).map_err(|_| "expected default or kubelet");
        let is_repeated = match key {
            "policy" => self.policy.replace(preset()?).is_some(),
            "rotationWindow" => self.rotation_window.replace(window(text)?).is_some(),
            "requestTimeout" => self.request_timeout.replace(spans::parse(text)?).is_some(),
            "retry" => self.retry.replace(retry(text)?).is_some(),
            "retryRefused" => self.retry_refused.replace(retry_refused(text)?).is_some(),
            _ => {
                return Err(
                    "unknown key, expected policy, rotationWindow, requestTimeout, retry or retryRefused".into()
                );
            }
        };
        if is_repeated { Err("given twice".into()) } else { Ok(()) }
    }
}

fn window(text: &str) -> Result<Window, String> {
    const HOW: &str = "write two percentages of the lifetime, for example 70%-90%";
    let permille = |part: &str| {
        let number: f64 = part.trim().trim_end_matches('%').parse().ok()?;
        (0.1..=99.9).contains(&number).then_some((number * 10.0).round() as u16)
    };
    let (from, to) = text.split_once('-').ok_or(HOW)?;
    match (permille(from), permille(to)) {
        (Some(from), Some(to)) => Window::new(from, to).map_err(|_| format!("the window ends before it begins; {HOW}")),
        _ => Err(format!("{HOW}; between 0.1% and 99.9%")),
    }
}

/// Parses `--retry` into a backoff. The backoff has the jitter of the default policy, so that clients that failed
/// together do not retry together.
fn retry(text: &str) -> Result<Backoff, String> {
    backoff(text, Policy::default().transient)
}

/// Parses `--retry-refused` into a backoff. The backoff has the jitter that the default policy has after refusals.
fn retry_refused(text: &str) -> Result<Backoff, String> {
    backoff(text, Policy::default().refused)
}

/// Parses `FIRST-MOST`, two durations, into a backoff with the jitter of `like`.
fn backoff(text: &str, like: Backoff) -> Result<Backoff, String> {
    let (first, most) =
        text.split_once('-').ok_or("write two durations, the first wait and the longest, for example 1s-2m")?;
    let (first, most) = (spans::parse(first.trim())?, spans::parse(most.trim())?);
    Backoff::new(first, most, like.spread()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_window_is_parsed_as_two_percentages() {
        assert_eq!(window("70%-90%"), Ok(Window::new(700, 900).unwrap()));
        assert_eq!(window("33.3-66.7"), Ok(Window::new(333, 667).unwrap()));
        for bad in ["", "70%", "90%-70%", "0-50", "50-100", "a-b", "-5%-10%", "NaN-90"] {
            assert!(window(bad).is_err_and(|why| why.contains("for example 70%-90%")), "{bad}");
        }
    }

    #[test]
    fn retry_flag_is_parsed_as_first_and_longest_wait() {
        let wait = retry("1s-2m").unwrap();
        assert_eq!((wait.first().as_secs(), wait.cap().as_secs()), (1, 120));
        for bad in ["", "1s", "2m-1s", "0s-1s", "1-2"] {
            assert!(retry(bad).is_err(), "{bad}");
        }
    }

    fn policy(file: &str, flags: Values) -> Result<Policy, String> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, file).unwrap();
        let timing = Timing { policy_file: Some(path.path().to_owned()), flags };
        timing.policy().map_err(|failure| failure.to_string().replace(path.path().to_str().unwrap(), "FILE"))
    }

    #[test]
    fn policy_file_sets_every_value_unless_flags_override() {
        let all =
            "# ours\npolicy: kubelet\nrotationWindow: 50%-60%\nrequestTimeout: 5m\nretry: 2s-4s\nretryRefused: 1m-2m\n";
        let read = policy(all, Values::default()).unwrap();
        assert_eq!(read.window, Window::new(500, 600).unwrap());
        assert_eq!(read.request_timeout, Duration::from_secs(300));
        assert_eq!((read.transient, read.refused), (retry("2s-4s").unwrap(), retry_refused("1m-2m").unwrap()));
        assert!(read.new_key_per_attempt, "the rest is the preset's");
        let flags = Values { policy: Some(Preset::Default), retry: retry("1s-1m").ok(), ..Values::default() };
        let mixed = policy(all, flags).unwrap();
        assert_eq!((mixed.window, mixed.transient), (read.window, retry("1s-1m").unwrap()));
        assert!(!mixed.new_key_per_attempt);
        for empty in ["", "---\n", "# retry: 1s-2s\n", "retry:\n", "retry: null\n", "{\"retry\": null}"] {
            assert_eq!(policy(empty, Values::default()), Ok(Policy::default()), "{empty:?}");
        }
    }

    #[test]
    fn policy_file_error_names_line_and_column() {
        for (bad, why) in [
            ("policy: default\nrotationWindows: 50%-60%\n", "rotationWindows: unknown key, expected policy,"),
            ("policy: default\nrotationWindows: 50%-60%\n", " at line 2, column 1"),
            ("policy: fast\n", "policy: expected default or kubelet at line 1, column 1"),
            ("\nrotationWindow: 60%-50%\n", "for example 70%-90% at line 2, column 1"),
            ("retry: 7\n", "for example 1s-2m at line 1, column 1"),
            ("retry: [1s, 2s]\n", "expected one mapping of keys to text at line 1, column 8"),
            ("retry: 1s-2s\nretry: 1s-2s\n", "retry: given twice at line 2, column 1"),
            ("requestTimeout: \"1s\n", "at line 1, column 17"),
            ("- policy: default\n", "at line 1, column 1"),
            ("policy: default\n---\npolicy: kubelet\n", "at line 3, column 1"),
            ("default\n", "at line 1, column 1"),
        ] {
            let error = policy(bad, Values::default()).expect_err(bad);
            assert!(error.starts_with("FILE: ") && error.contains(why), "{bad:?}: {error}");
        }
    }
}
