//! The command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};
use derive_more::Display;
use jiff::{Span, SpanRelativeTo};
use perennial_dev::Approval;
use perennial_kubernetes::addresses::check_dns_name;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  bad usage or input; nothing was changed

Environment:
  PERENNIAL_LOG  what to log on stderr, for example debug or perennial_rotation=trace [default: info; for demo: warn]";

/// Demonstrates the rotation of certificates, and serves a certificate API for development
#[derive(Debug, Parser)]
#[command(name = "perennial-dev", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(Demo),
    Signer(Signer),
}

/// Demonstrate rotation: an embedded API server, a bootstrap token, and certificates that live seconds
///
/// An embedded API server is started on the loopback interface. A node that holds nothing but a
/// bootstrap token requests its first certificate, and from then on rotates that certificate with
/// the certificate itself, over mutual TLS. After each rotation the demo asks the server, over a
/// new connection, for the identity of the node.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial-dev demo
  perennial-dev demo --runtime smol --rotations 5 --lifetime 4s
  perennial-dev demo --json | jq 'select(.event == \"rotated\")'

Events with --json: started; issued and rotated (n, serial, not_before, not_after, asked_with, and
latency_ms: from falling due to being in use and on disk); then done, or failed (reason).

Exit codes:
  0  every rotation happened, and the server accepted each certificate as the node's
  1  it did not come to that; the reason is on stderr
  2  bad usage or input"
)]
pub(crate) struct Demo {
    /// Runtime of the node: plain threads, or futures on smol
    #[arg(long, value_enum, default_value_t = Runtime::Std)]
    pub(crate) runtime: Runtime,
    /// Number of rotations to show
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rotations: u32,
    /// Lifetime of each certificate; two seconds at least
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = |text: &str| whole_seconds(text, 2))]
    pub(crate) lifetime: Duration,
    /// Keep the certificates in this directory, which must not hold any yet [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Report on stdout as JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run the embedded API server alone. For development: this is not a cluster, and not a CA to trust
///
/// Serves certificate signing requests as a cluster does and signs with a CA of its own. It approves nodes'
/// client certificates, and serving certificates for the node's own name and for names given with
/// --allow-serving-name. CA and bootstrap token are kept in DIR and used again at the next start, together with two kubeconfigs,
/// admin.kubeconfig and bootstrap.kubeconfig. Requests live in memory.
///
/// SIGHUP makes it look again: at the CA, for another one to sign with (move ca.crt and ca.key away for a
/// new one; certificates of the one before are good until the server ends), and at FILE of --faults.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial-dev signer
  perennial-dev signer --listen 127.0.0.1:7443 --dir /tmp/signer --signing-duration 10m
  perennial-dev signer --approve manual   # then: kubectl certificate approve …
  perennial-dev signer --allow-serving-name 10.0.0.7 --allow-serving-name worker-1.example
  perennial-dev signer --faults faults.yaml

Faults, the first rule that applies to a request being the one followed:
  rules:
  - match: { method: POST, path: /apis/certificates.k8s.io/*, until: 2m }
    times: 3
    fault: { answer: { status: 503, body: html, retryAfter: 5 } }
  - fault: { certificate: expired }

  match   method, path (with * at its end: anything), subresource, user, nth, after, until
  fault   answer: { status, body: status|html|empty, retryAfter }, delay: 5s, silence, trickle: 10ms,
          cut: beforeHead|inHead|afterHead|inChunk|inBody|afterBody, reset: (the same places), garbage,
          oversized: head|line|body, contentType: text/html,
          events: duplicated|reordered|onlyBookmarks|expired|unreadable|deleted,
          object: uidChanged|replaced|neverIssued|denied|failed,
          certificate: otherKey|otherName|extraOrganization|extraUri|withoutNames|expired|notYetValid|
                       otherUsage|otherAuthority|emptyChain|wrongOrder|trailingText|truncated,
          youngCache, connection: refused|reset|closed|silent|plaintext|handshakeAlert|
          certificateAlert|otherName|otherAuthority|expired

Exit codes:
  0  ended by a signal
  1  failed
  2  bad usage or input; nothing was changed"
)]
pub(crate) struct Signer {
    /// Address to listen on: IP:PORT, localhost:PORT or :PORT; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6443", value_parser = listen_address)]
    pub(crate) listen: SocketAddr,
    /// Directory of CA, bootstrap token and kubeconfigs; created if missing
    #[arg(long, value_name = "DIR", default_value = "./perennial-signer")]
    pub(crate) dir: PathBuf,
    /// Directory of the CA of the server's own certificate [default: that of --dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) server_ca: Option<PathBuf>,
    /// The longest lifetime of a certificate, and that of requests without one
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = |text: &str| whole_seconds(text, 1))]
    pub(crate) signing_duration: Duration,
    /// Span from notBefore to the time of signing [default: 5 minutes, or a twentieth of shorter lifetimes]
    #[arg(long, value_name = "DURATION", value_parser = backdate)]
    pub(crate) backdate: Option<Duration>,
    /// The approver of nodes' certificates: the server, or a person with kubectl
    #[arg(long, default_value = "auto", value_parser = PossibleValuesParser::new(["auto", "manual"]).map(approval))]
    pub(crate) approve: Approval,
    /// A DNS name or IP address that --approve auto allows in serving certificates, or * for all of them; may be
    /// repeated [default: only the node's own name]
    #[arg(long, value_name = "NAME", value_parser = serving_name)]
    pub(crate) allow_serving_name: Vec<String>,
    /// Misbehave as this file says, YAML or JSON: which requests go wrong, and how (see below)
    #[arg(long, value_name = "FILE")]
    pub(crate) faults: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    #[display("std")]
    Std,
    #[display("smol")]
    Smol,
}

fn approval(name: String) -> Approval {
    if name == "auto" { Approval::Auto } else { Approval::Manual }
}

/// Parses a lifetime of at least `least` seconds. X.509 times are whole seconds: a certificate that begins and ends in
/// the same second cannot be signed, which the client of a CSR never learns, and one of a second may expire before it
/// is served.
fn whole_seconds(text: &str, least: u64) -> Result<Duration, String> {
    let span = duration(text)?;
    if span < Duration::from_secs(least) {
        return Err(format!("certificates count whole seconds; give them {least} at least, for example 6s"));
    }
    Ok(span)
}

fn serving_name(text: &str) -> Result<String, &'static str> {
    if text == "*" || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    check_dns_name(text).map(|()| text.to_owned())
}

fn backdate(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span > Duration::from_secs(365 * 86_400) {
        return Err("at most 365d: no clock is that wrong".into());
    }
    Ok(span)
}

/// A positive span of time, such as `6s`, `1h30m` or `365d`; a day has 24 hours.
fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "write a number and a unit, for example 6s, 90m, 1h30m or 365d";
    let span = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let span = span.map_err(|_| format!("this is not a duration; {EXAMPLES}"))?;
    let span = Duration::try_from(span).ok().filter(|span| !span.is_zero());
    span.ok_or_else(|| format!("a duration must be longer than zero; {EXAMPLES}"))
}

/// Parses `IP:PORT`, `localhost:PORT` or `:PORT`, as Go programs do.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let named = || {
        let (host, port) = text.rsplit_once(':')?;
        let ip: IpAddr = match host {
            "" => Ipv6Addr::UNSPECIFIED.into(),
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port.parse().ok()?))
    };
    let address = text.parse().ok().or_else(named);
    address.ok_or_else(|| "expected IP:PORT, localhost:PORT or :PORT, for example 127.0.0.1:9090".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_passes_claps_checks() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
