//! The command line of `perennial-dev`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};
use derive_more::Display;
use jiff::{Span, SpanRelativeTo};
use perennial_dev::Approval;
use perennial_kubernetes::addresses::check_dns_name;

use crate::fleet_options::{Forecast, Simulate};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  bad usage or input, or a file that cannot be read or written

Environment:
  PERENNIAL_LOG  what to log on stderr, for example debug or perennial_rotation=trace [default: warn; for signer: info]";

/// Demonstrates and simulates certificate rotation, and serves the certificate API of Kubernetes for development
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
    Simulate(Simulate),
    Forecast(Forecast),
}

/// Demonstrate rotation with an embedded API server and certificates that are valid for seconds
///
/// Starts an embedded API server on the loopback interface. A node with a bootstrap token requests its
/// first certificate, and rotates it from then on, authenticated by the certificate itself (mutual TLS).
/// After each rotation the demo checks over a new connection that the server authenticates the node by
/// the new certificate.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial-dev demo
  perennial-dev demo --runtime smol --rotations 5 --lifetime 4s
  perennial-dev demo --json | jq 'select(.event == \"rotated\")'

Events with --json: started; issued and rotated (n, identity, serial, not_before, not_after, asked_with, and
latency_ms, from the start or the rotation point until in use and on disk); then done, or failed (reason).

Exit codes:
  0  every rotation happened, and the server accepted each certificate as the node's
  1  interrupted, or a rotation or a check failed; stderr has the reason
  2  bad usage or input"
)]
pub(crate) struct Demo {
    /// Runtime of the node: plain threads (std), or futures on smol
    #[arg(long, value_enum, default_value_t = Runtime::Std)]
    pub(crate) runtime: Runtime,
    /// Number of rotations to show
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rotations: u32,
    /// Lifetime of each certificate, at least 2s
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = |text: &str| whole_seconds(text, 2))]
    pub(crate) lifetime: Duration,
    /// Directory for the node's certificates, which must hold none yet [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Report on stdout as JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run the embedded API server alone. For development: this is not a cluster, and not a CA to trust
///
/// Serves certificate signing requests as a cluster does, and signs with a CA of its own. Approves nodes'
/// client certificates, and serving certificates for the node's own name and for names given with
/// --allow-serving-name. Signs also for kubernetes.io/kube-apiserver-client, whose requests a person approves;
/// with --other-signers, approves and signs for every signer outside kubernetes.io/, too. Also serves pods,
/// service accounts, nodes, trust bundles and, with --other-signers, certificates of pods. DIR keeps the CA and
/// the bootstrap token for the next start, and two kubeconfigs, admin.kubeconfig and bootstrap.kubeconfig.
/// Objects are in memory only.
///
/// SIGHUP reads the CA and the --faults file again. For a new CA, first move ca.crt and ca.key away; the
/// server accepts certificates of the previous CA until it ends.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial-dev signer
  perennial-dev signer --listen 127.0.0.1:7443 --dir /tmp/signer --signing-duration 10m
  perennial-dev signer --approve manual   # then: kubectl certificate approve …
  perennial-dev signer --allow-serving-name 10.0.0.7 --allow-serving-name worker-1.example
  perennial-dev signer --other-signers    # for a list with signers such as example.com/mesh
  perennial-dev signer --faults faults.yaml

Faults; the first rule that matches a request applies:
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
  2  bad usage or input, or a file that cannot be read or written"
)]
pub(crate) struct Signer {
    /// Address to listen on: IP:PORT, localhost:PORT, or :PORT (all addresses); port 0 chooses a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6443", value_parser = listen_address)]
    pub(crate) listen: SocketAddr,
    /// Directory of CA, bootstrap token and kubeconfigs; created if missing
    #[arg(long, value_name = "DIR", default_value = "./perennial-signer")]
    pub(crate) dir: PathBuf,
    /// Directory of the CA that issues the server's own TLS certificate [default: --dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) server_ca: Option<PathBuf>,
    /// Longest lifetime of a certificate (of a pod: at least 1h), and the lifetime if a request names none, for example
    /// 10m
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = |text: &str| whole_seconds(text, 1))]
    pub(crate) signing_duration: Duration,
    /// Time by which notBefore precedes signing, for example 1m [default: 5m, at most a twentieth of the lifetime]
    #[arg(long, value_name = "DURATION", value_parser = backdate)]
    pub(crate) backdate: Option<Duration>,
    /// Approver of nodes' requests: the server (auto), or a person with kubectl (manual)
    #[arg(long, default_value = "auto", value_parser = PossibleValuesParser::new(["auto", "manual"]).map(approval))]
    pub(crate) approve: Approval,
    /// Approve serving certificates for this DNS name or IP address, too, or * for any; may be repeated
    #[arg(long, value_name = "NAME", value_parser = serving_name)]
    pub(crate) allow_serving_name: Vec<String>,
    /// Approve and sign for every signer outside kubernetes.io/, too, such as example.com/mesh
    #[arg(long)]
    pub(crate) other_signers: bool,
    /// Inject the faults in this file, YAML or JSON: which requests fail, and how (see below)
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
/// the same second cannot be signed, and its client would wait in vain. A certificate of one second may expire before
/// it is served.
fn whole_seconds(text: &str, least: u64) -> Result<Duration, String> {
    let span = duration(text)?;
    if span < Duration::from_secs(least) {
        return Err(format!("a lifetime is in whole seconds and at least {least}, for example 6s"));
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
        return Err("at most 365d".into());
    }
    Ok(span)
}

/// Parses a positive span of time, such as `6s`, `1h30m` or `365d`; a day has 24 hours.
fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "write a number and a unit, for example 6s, 90m, 1h30m or 365d";
    let span = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let span = span.map_err(|_| format!("this is not a duration; {EXAMPLES}"))?;
    let span = Duration::try_from(span).ok().filter(|span| !span.is_zero());
    span.ok_or_else(|| format!("a duration must be longer than zero; {EXAMPLES}"))
}

/// Parses `IP:PORT`, `localhost:PORT` or `:PORT`. As in Go programs, `localhost` is 127.0.0.1, and no host means all
/// addresses.
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
