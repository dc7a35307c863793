//! Reads validity periods of certificates from a CSV file, a directory of certificates, or metrics of kubelets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use perennial::{UnixTime, Validity, printable};
use perennial_pki::{Chain, Usage};

use crate::Failure;

/// The end of the names of kubelet's metrics with the time until a certificate expires: of the client and the server
/// certificate (pkg/kubelet/certificate/kubelet.go).
const TTL: &str = "_ttl_seconds";

/// The validity periods in the file or directory at `path`. Metrics have no notBefore: each certificate is taken to be
/// valid for `lifetime`.
pub(super) fn read(path: &Path, now: UnixTime, lifetime: Option<Duration>) -> Result<Vec<Validity>, Failure> {
    let unable = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let found = if fs::metadata(path).map_err(unable)?.is_dir() {
        of_directory(path)?
    } else {
        let text = fs::read_to_string(path).map_err(unable)?;
        let is_data = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let first = text.lines().map(str::trim).find(is_data).unwrap_or_default();
        if first.contains(TTL) { of_metrics(path, &text, now, lifetime)? } else { of_csv(path, &text)? }
    };
    if found.is_empty() {
        return Err(Failure::usage(format!("{} has no certificate; {FORMS}", path.display())));
    }
    Ok(found)
}

const FORMS: &str = "expected lines NOTBEFORE,NOTAFTER, files *.pem or *.crt, or kubelet's metrics *_ttl_seconds";

fn at_line(path: &Path, number: usize, reason: &str) -> Failure {
    Failure::usage(format!("{}:{}: {reason}", path.display(), number + 1))
}

/// Lines of notBefore and notAfter. Empty lines, lines that begin with `#`, and a heading are skipped.
fn of_csv(path: &Path, text: &str) -> Result<Vec<Validity>, Failure> {
    const FORM: &str = "expected NOTBEFORE,NOTAFTER, for example 2026-01-01T00:00:00Z,2026-01-02T00:00:00Z";
    let mut found = vec![];
    for (number, line) in text.lines().map(str::trim).enumerate() {
        let is_heading =
            found.is_empty() && line.to_ascii_lowercase().replace(['_', ' ', '"'], "").starts_with("notbefore");
        if line.is_empty() || line.starts_with('#') || is_heading {
            continue;
        }
        let fields: Vec<&str> = line.split(',').map(|field| field.trim().trim_matches('"')).collect();
        let [begins, ends] = fields[..] else {
            let shown = printable(line);
            return Err(at_line(
                path,
                number,
                &format!("this line has {} fields, not 2: {shown}; {FORM}", fields.len()),
            ));
        };
        let time = |field: &str| {
            let time = field.parse::<Timestamp>().map(|time| UnixTime::from_millis(time.as_millisecond()));
            time.map_err(|_| at_line(path, number, &format!("this is not a time: {}; {FORM}", printable(field))))
        };
        let validity = Validity::new(time(begins)?, time(ends)?);
        found.push(validity.map_err(|error| at_line(path, number, &error.to_string()))?);
    }
    Ok(found)
}

/// The newest certificate of each purpose: certificates that replace each other have the same purpose.
#[derive(Default)]
pub(super) struct Newest(BTreeMap<[String; 3], Validity>);

impl Newest {
    pub(super) fn add(&mut self, purpose: [String; 3], validity: Validity) {
        let newest = self.0.entry(purpose).or_insert(validity);
        if newest.not_after() < validity.not_after() {
            *newest = validity;
        }
    }

    pub(super) fn into_validities(self) -> Vec<Validity> {
        self.0.into_values().collect()
    }
}

/// The newest certificate of each common name and usages in the files of a directory. Links are skipped: in kubelet's directory
/// they name files that are there, too.
fn of_directory(path: &Path) -> Result<Vec<Validity>, Failure> {
    let unable = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut newest = Newest::default();
    for entry in fs::read_dir(path).map_err(unable)? {
        let entry = entry.map_err(unable)?;
        let file = entry.path();
        let is_certificate = file.extension().is_some_and(|kind| kind == "pem" || kind == "crt");
        if !is_certificate || !entry.file_type().map_err(unable)?.is_file() {
            continue;
        }
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", file.display()));
        let pem = fs::read(&file).map_err(|error| wrong(&error))?;
        let chain = Chain::from_pem(&pem).map_err(|error| wrong(&error))?;
        let certificate = chain.certificate();
        // The addresses of a node may have changed with a rotation. Without a common name, the other names tell
        // certificates apart.
        let name = match certificate.names.common_name() {
            "" => certificate.names.to_string(),
            name => name.to_owned(),
        };
        let [client, server] = [Usage::ClientAuth, Usage::ServerAuth]
            .map(|usage| if chain.is_for(usage) { usage.to_string() } else { String::new() });
        newest.add([name, client, server], certificate.validity);
    }
    Ok(newest.into_validities())
}

/// The samples of metrics with the time until a certificate expires, in the text format of Prometheus.
fn of_metrics(path: &Path, text: &str, now: UnixTime, lifetime: Option<Duration>) -> Result<Vec<Validity>, Failure> {
    let Some(lifetime) = lifetime else {
        let why = "metrics have no notBefore; give the lifetime of these certificates with --lifetime, for example 24h";
        return Err(Failure::usage(format!("{}: {why}", path.display())));
    };
    let mut found = vec![];
    for (number, line) in text.lines().map(str::trim).enumerate() {
        // Labels may have spaces, and a time may follow the value.
        let (name, rest) = line.split_at(line.find(['{', ' ', '\t']).unwrap_or(line.len()));
        if !name.ends_with(TTL) {
            continue;
        }
        let values = rest.rfind('}').map_or(rest, |end| &rest[end + 1..]);
        let value = values.split_whitespace().next().and_then(|value| value.parse::<f64>().ok());
        let Some(seconds) = value.filter(|seconds| !seconds.is_nan()) else {
            return Err(at_line(path, number, &format!("expected a number of seconds after {}", printable(name))));
        };
        // kubelet shows infinity while it has no certificate.
        if seconds.is_infinite() {
            continue;
        }
        // A cast of a float saturates.
        let not_after = UnixTime::from_millis(now.as_millis().saturating_add((seconds * 1000.0) as i64));
        let validity = Validity::new(not_after.before(lifetime), not_after);
        found.push(validity.map_err(|error| at_line(path, number, &error.to_string()))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use perennial_dev::{Authority, Random};
    use perennial_pki::Credential;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_767_225_600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn metrics(text: &str) -> Result<Vec<Validity>, String> {
        of_metrics(Path::new("scrape"), text, NOW, Some(DAY)).map_err(|failure| failure.reason)
    }

    fn csv(text: &str) -> Result<Vec<Validity>, String> {
        of_csv(Path::new("list"), text).map_err(|failure| failure.reason)
    }

    #[test]
    fn csv_with_heading_and_comments_gives_each_certificate() {
        let text = "notBefore,notAfter\n# two nodes\n2026-01-01T00:00:00Z,2026-01-02T00:00:00Z\n\n\
                    \"2026-01-01T06:00:00+06:00\", 2026-01-02T00:00:00Z\n";
        let expected = Validity::new(NOW, NOW.after(DAY)).unwrap();
        assert_eq!(csv(text), Ok(vec![expected; 2]));
    }

    #[test]
    fn metrics_with_labels_and_times_give_each_certificate() {
        let text = "# TYPE kubelet_certificate_manager_client_ttl_seconds gauge\n\
                    kubelet_certificate_manager_client_ttl_seconds 3600\n\
                    kubelet_certificate_manager_client_ttl_seconds{node=\"a } b\"} 3.6e+03 1767225600000\n\
                    kubelet_certificate_manager_server_ttl_seconds{node=\"c\"} +Inf\n\
                    other_metric 7\n";
        let ends = NOW.after(Duration::from_secs(3600));
        assert_eq!(metrics(text), Ok(vec![Validity::new(ends.before(DAY), ends).unwrap(); 2]));
    }

    #[test]
    fn directory_counts_client_and_server_certificate_of_one_name() {
        let mut random = Random::from_seed([1; 32]);
        let authority = Authority::generate(&mut random, NOW, DAY * 365).unwrap();
        let server = authority.server_credential(&[], &[[192, 0, 2, 1].into()], &mut random, NOW, DAY).unwrap();
        let name = server.chain().certificate().names.common_name();
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, pair: &Credential| fs::write(directory.path().join(file), pair.chain().pem()).unwrap();
        write("server.pem", &server);
        for days in [3, 2] {
            let client = authority.client_credential(name, &[], &mut random, NOW, DAY * days).unwrap();
            write(&format!("client-{days}.pem"), &client);
        }
        let found = read(directory.path(), NOW, None).map_err(|failure| failure.reason).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|validity| validity.not_after() > NOW.after(DAY * 2)), "{found:?}");
    }

    #[test]
    fn wrong_line_is_named_with_the_expected_form() {
        for (result, words) in [
            (csv("2026-01-01T00:00:00Z\n"), &["list:1:", "1 fields, not 2", "expected NOTBEFORE,NOTAFTER"][..]),
            (csv("\n2026-01-01T00:00:00Z,tomorrow\n"), &["list:2:", "not a time: tomorrow"]),
            (csv("2026-01-02T00:00:00Z,2026-01-01T00:00:00Z\n"), &["list:1:", "not before notAfter"]),
            (metrics("kubelet_x_ttl_seconds soon\n"), &["scrape:1:", "expected a number of seconds"]),
            (metrics("kubelet_x_ttl_seconds{a=\"b\"}\n"), &["scrape:1:", "expected a number of seconds"]),
        ] {
            let error = result.unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        }
    }
}
