//! The command lines of `simulate` and `forecast`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use derive_more::Display;
use jiff::{Span, SpanRelativeTo};
use perennial_simulation::{Outage, OutageKind};

const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// The longest time that can be simulated.
pub(crate) const LONGEST: Duration = Duration::from_secs(20 * 365 * 86_400);
/// The shortest lifetime that can be simulated.
pub(crate) const SHORTEST_LIFETIME: Duration = Duration::from_secs(60);
/// The `Retry-After` of a simulated status 503.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Simulate a fleet of nodes that rotate their certificates: load, expiries, outages
///
/// Runs in virtual time. Each node is the real state machine of perennial, or a port of client-go's certificate
/// manager. The same arguments give the same result. Prints a summary; --csv writes numbers over time, --svg
/// plots, and --html one page with summary and plots. docs/simulation.md explains each row, and what is not
/// modelled.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial-dev simulate --nodes 5000 --lifetime 24h --span 1y
  perennial-dev simulate --outage 6h@10d --span 30d --compare --html out.html
  perennial-dev simulate --nodes 1000000 --span 30d
  perennial-dev simulate --approver-delay 1h --denied 2% --compare --json

Exit codes:
  0  done
  2  bad usage, or a file that cannot be written"
)]
pub(crate) struct Simulate {
    /// Number of nodes, each with one certificate
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) nodes: u32,
    /// Lifetime of each certificate, at least 1m
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub(crate) lifetime: Duration,
    /// Time to simulate, at most 20y; a year has 365 days
    #[arg(long, value_name = "DURATION", default_value = "1y", value_parser = span)]
    pub(crate) span: Duration,
    /// Program of each node: perennial with its default policy (default) or with client-go's timing (kubelet), or the
    /// port of client-go's certificate manager (client-go)
    #[arg(long, value_enum, default_value_t = ProgramName::Default)]
    pub(crate) policy: ProgramName,
    /// Simulate all three programs of --policy, side by side, with the same fleet
    #[arg(long, conflicts_with = "policy")]
    pub(crate) compare: bool,
    /// Install all nodes within this time after the start, without certificates, for example 1h [default: all nodes have
    /// certificates, of all ages]
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub(crate) installed_within: Option<Duration>,
    /// Outage: its length, the time of its beginning, and its kind (default: refused), for example 6h@10d:503; may be
    /// repeated. Kinds: refused (the API server refuses connections), 503 (the API server answers 503 with Retry-After
    /// 30 s), signer (approver and signer do not work)
    #[arg(long, value_name = "LENGTH@TIME[:KIND]", value_parser = outage)]
    pub(crate) outage: Vec<Outage>,
    /// Share of requests that the approver denies, for example 2%
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = share)]
    pub(crate) denied: f64,
    /// Time from a request's creation until the approver decides on it
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = span_or_zero)]
    pub(crate) approver_delay: Duration,
    /// Time from the approval until the signer issues the certificate
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = span_or_zero)]
    pub(crate) signer_latency: Duration,
    /// Restart the program of every node at this time after the start, for example 10d; may be repeated
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) restart_all: Vec<Duration>,
    /// Any number. Names of nodes, and with them all jitter, follow from it: another seed is another fleet
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the numbers over time to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write a page with summary and plots to this file; the page needs no other file and no scripts
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write the plots to this directory, created if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
}

/// A program of simulated nodes.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgramName {
    #[display("default")]
    Default,
    #[display("kubelet")]
    Kubelet,
    #[display("client-go")]
    ClientGo,
}

impl ProgramName {
    pub(crate) const ALL: [Self; 3] = [Self::Default, Self::Kubelet, Self::ClientGo];
}

/// Forecast load and outages of a cluster from its certificates
///
/// SOURCE is one of:
/// - a CSV file with a line NOTBEFORE,NOTAFTER for each certificate (RFC 3339)
/// - a directory of certificates or pairs (*.pem, *.crt): the newest of each common name and usages
/// - a text file with the metrics of kubelets (kubelet_certificate_manager_client_ttl_seconds and others)
///
/// With --kubeconfig, the certificates are those in the cluster's CertificateSigningRequests: the newest of each
/// signer, names and usages. A cluster deletes these objects an hour after their approval, so for all nodes of a
/// cluster, give the metrics of its kubelets instead.
///
/// Simulates the coming weeks, with one node for each certificate. Prints when the load peaks; how many
/// certificates expire in outages of approver and signer that begin at the worst hour; and how soon the load is
/// even with other lifetimes.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial-dev forecast certificates.csv
  perennial-dev forecast /var/lib/kubelet/pki --policy client-go
  perennial-dev forecast --kubeconfig admin.kubeconfig --span 8w

Exit codes:
  0  done
  1  the cluster of --kubeconfig cannot be reached, or its answer cannot be read
  2  bad usage or input, or a file that cannot be read"
)]
pub(crate) struct Forecast {
    /// CSV file, directory of certificates, or file with kubelet metrics (see above)
    #[arg(value_name = "SOURCE", required_unless_present = "kubeconfig", conflicts_with = "kubeconfig")]
    pub(crate) source: Option<PathBuf>,
    /// Read the certificates of this kubeconfig's cluster, in place of SOURCE
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Time to forecast
    #[arg(long, value_name = "DURATION", default_value = "4w", value_parser = span)]
    pub(crate) span: Duration,
    /// Lifetime of future certificates [default: the median lifetime of the given ones]
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub(crate) lifetime: Option<Duration>,
    /// Time at which the forecast begins (RFC 3339), for example 2026-01-01T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<jiff::Timestamp>,
    /// Program of each node: perennial with its default policy (default) or with client-go's timing (kubelet), or the
    /// port of client-go's certificate manager (client-go)
    #[arg(long, value_enum, default_value_t = ProgramName::Default)]
    pub(crate) policy: ProgramName,
    /// Print the forecast as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Parses a span of time such as `6h`, `30d`, `4w` or `1y`. A week has 7 days and a year 365.
fn span_or_zero(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "write numbers and units, for example 90s, 6h, 1h30m, 30d, 4w or 1y";
    let wrong = |_| format!("this is not a duration; {EXAMPLES}");
    let span = text.parse::<Span>().map_err(wrong)?;
    let years = YEAR.checked_mul(u32::try_from(span.get_years()).unwrap_or(0)).unwrap_or(Duration::MAX);
    let rest = span.years(0).to_duration(SpanRelativeTo::days_are_24_hours()).map_err(wrong)?;
    let rest = Duration::try_from(rest).map_err(|_| format!("a duration is not negative; {EXAMPLES}"))?;
    let span = years.saturating_add(rest);
    if span > LONGEST {
        return Err("at most 20y".into());
    }
    Ok(span)
}

fn span(text: &str) -> Result<Duration, String> {
    let span = span_or_zero(text)?;
    if span.is_zero() { Err("a duration must be longer than zero here, for example 30d".into()) } else { Ok(span) }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = span(text)?;
    if lifetime < SHORTEST_LIFETIME {
        return Err("a simulated lifetime is at least 1m".into());
    }
    Ok(lifetime)
}

/// Parses an outage, such as `6h@10d` or `6h@10d:503`.
fn outage(text: &str) -> Result<Outage, String> {
    const FORM: &str = "expected LENGTH@TIME or LENGTH@TIME:KIND, for example 6h@10d or 6h@10d:503";
    let (lasts, rest) = text.split_once('@').ok_or(FORM)?;
    let (from, kind) = rest.split_once(':').unwrap_or((rest, "refused"));
    let kind = match kind {
        "refused" => OutageKind::Refused,
        "503" => OutageKind::Unavailable { retry_after: RETRY_AFTER },
        "signer" => OutageKind::Undecided,
        _ => return Err(format!("the kind is refused, 503 or signer; {FORM}")),
    };
    let part = |name: &str, error: String| format!("{name}: {error}");
    let lasts = span(lasts).map_err(|error| part("LENGTH", error))?;
    let from = span_or_zero(from).map_err(|error| part("TIME", error))?;
    Ok(Outage { from, lasts, kind })
}

/// Parses a percentage, such as `2%` or `0.5%`, as a fraction.
fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let share = number.map(|percent| percent / 100.0).filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a percentage from 0% to 100%, for example 2%".to_owned())
}
