//! The command line: what can be asked for, and what people are told about it.

mod listen;
mod observe;
mod run;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use perennial::Window;
use perennial_kubernetes::addresses::check_dns_name;

use crate::spans;
pub(crate) use observe::{Observe, Replay};
pub(crate) use run::{Proxy, Run, Which};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  bad usage or input; nothing was changed

Environment:
  PERENNIAL_LOG  what to log on stderr, for example warn, debug or perennial_std=trace
                 [default: info; for demo, status, verify and replay: warn]
  HTTPS_PROXY, NO_PROXY  how run reaches the API server, as in kubectl (see run --proxy); status shows it
  SSL_CERT_FILE, SSL_CERT_DIR  where the system's CA certificates are, for a kubeconfig that names no CA";

/// Certificates that renew themselves: keeps a Kubernetes node's certificates, or any signer's, rotated.
#[derive(Debug, Parser)]
#[command(name = "perennial", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What the log on stderr looks like
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(Demo),
    Run(Box<Run>),
    Status(Status),
    Verify(Verify),
    Replay(Replay),
    Signer(Signer),
}

/// Show it work: an embedded API server, a bootstrap token, and certificates that live seconds
///
/// An embedded API server is started on the loopback interface. A node that holds nothing but a
/// bootstrap token asks it for its first certificate, and from then on renews that certificate with
/// the certificate itself, over mutual TLS. After each rotation the server is asked, over a new
/// connection, whom it takes the node for.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial demo
  perennial demo --runtime smol --rotations 5 --lifetime 4s
  perennial demo --json | jq 'select(.event == \"rotated\")'

Events with --json: started; issued and rotated (n, serial, not_before, not_after, asked_with, and
latency_ms: from falling due to being in use and on disk); then done, or failed (reason).

Exit codes:
  0  every rotation happened, and the server accepted each certificate as the node's
  1  it did not come to that; the reason is on stderr
  2  bad usage or input"
)]
pub(crate) struct Demo {
    /// What the rotation runs on: plain threads, or futures on smol
    #[arg(long, value_enum, default_value_t = Runtime::Std)]
    pub(crate) runtime: Runtime,
    /// How many rotations to show
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rotations: u32,
    /// How long each certificate lives; two seconds at least
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = demo_lifetime)]
    pub(crate) lifetime: Duration,
    /// Keep the certificates in this directory, which must not hold any yet [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Report on stdout as JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say what a certificate directory holds, and when it will be rotated
///
/// Reads, and changes nothing. The rotation point shown is the instant `perennial run` goes by: it
/// is drawn from the certificate itself, so both compute the same, if they are given the same --policy and
/// --rotation-window. Also shown are a request that has not led to a certificate yet (its name, its age
/// and, after a refusal, when the next one follows), the previous pairs, and problems with what to do.
/// The serving certificate, kubelet-server, is shown if there is anything of it. With --kubeconfig, the
/// API server of `run` is shown too: its URL, the CAs that verify it and the proxy, each with its source.
/// No server is contacted: `perennial run` checks that the API server accepts the certificate
/// (--certificate-check-interval).
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial status --cert-dir /var/lib/kubelet/pki
  perennial status --cert-dir /var/lib/kubelet/pki --json | jq -r .rotate_at
  perennial status --cert-dir /var/lib/kubelet/pki --json | jq -r .serving.rotate_at
  perennial status --cert-dir pki --prefix proxy
  perennial status --cert-dir /var/lib/kubelet/pki --kubeconfig /etc/kubernetes/kubelet.conf

Exit codes:
  0  good: valid, its key fits, not due for rotation; the serving certificate too, if it is shown
  1  not good: no certificate, expired, not yet valid, due, damaged, unreadable, or the key is another's
  2  bad usage or input: the directory cannot be read, or a kubeconfig cannot be used (the rest is shown)"
)]
pub(crate) struct Status {
    /// Where certificate and key are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) cert_dir: PathBuf,
    /// The name the files begin with [default: kubelet-client, and kubelet-server if there is any]
    #[arg(long, value_name = "NAME", value_parser = run::prefix)]
    pub(crate) prefix: Option<String>,
    /// The kubeconfig given to `run`. Shows the API server, the CAs that verify it and the proxy in use
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The bootstrap kubeconfig, if `run` was given this flag: while it exists it names the API server, unless the
    /// kubeconfig's own user is usable
    #[arg(long, value_name = "FILE", requires = "kubeconfig")]
    pub(crate) bootstrap_kubeconfig: Option<PathBuf>,
    /// Which proxy to reach the API server through, as with `run`. HTTPS_PROXY and NO_PROXY are read from this command's
    /// environment, which may differ from that of a service
    #[arg(long, value_enum, default_value_t = Proxy::Environment, requires = "kubeconfig")]
    pub(crate) proxy: Proxy,
    /// The numbers `run` goes by, if it was given this flag
    #[arg(long, value_enum, default_value_t = Policy::Default)]
    pub(crate) policy: Policy,
    /// In which part of its lifetime a certificate is replaced, if `run` was given this flag
    #[arg(long, value_name = "FROM-TO", value_parser = run::window)]
    pub(crate) rotation_window: Option<Window>,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say whether a kubelet, and perennial, could start from a certificate directory
///
/// Reads, and changes nothing. To start is to come up without a bootstrap credential. A kubelet takes
/// the first place where there is anything, and gives up if that holds no pair:
/// DIR/kubelet-client-current.pem, then kubelet-client.crt with kubelet-client.key. It also has to
/// be able to put the next certificate in place. perennial takes the best pair there is, and has to be able
/// to write and lock. Who may do what is looked at as whoever runs this. The serving
/// certificate, kubelet-server, is looked at if there is anything of it; it may be missing or expired,
/// for it is asked for with the other one. What a kubelet's own kubeconfig points at is not looked at.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial verify --cert-dir /var/lib/kubelet/pki
  perennial verify --cert-dir /var/lib/kubelet/pki --json | jq -r '.certificates[].kubelet.faults[].why'

Exit codes:
  0  both could start
  1  a kubelet, or perennial, could not: which one, why, and what to do is said
  2  bad usage or input: the directory cannot be read"
)]
pub(crate) struct Verify {
    /// Where certificate and key are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) cert_dir: PathBuf,
    /// Report as one JSON object
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
  perennial signer
  perennial signer --listen 127.0.0.1:7443 --dir /tmp/signer --signing-duration 10m
  perennial signer --approve manual   # then: kubectl certificate approve …
  perennial signer --allow-serving-name 10.0.0.7 --allow-serving-name worker-1.example
  perennial signer --faults faults.yaml

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
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6443", value_parser = listen::address)]
    pub(crate) listen: SocketAddr,
    /// Where CA, bootstrap token and kubeconfigs are kept; created if missing
    #[arg(long, value_name = "DIR", default_value = "./perennial-signer")]
    pub(crate) dir: PathBuf,
    /// Where the CA of the server's own certificate is kept, if that is another one [default: that of --dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) server_ca: Option<PathBuf>,
    /// The longest lifetime of a certificate, and the one given to those who ask for none
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = signing_duration)]
    pub(crate) signing_duration: Duration,
    /// How far back validity begins [default: 5 minutes, or a twentieth of shorter lifetimes]
    #[arg(long, value_name = "DURATION", value_parser = backdate)]
    pub(crate) backdate: Option<Duration>,
    /// Who approves nodes' certificates: the server, or a person with kubectl
    #[arg(long, value_enum, default_value_t = Approve::Auto)]
    pub(crate) approve: Approve,
    /// A DNS name or IP address that --approve auto allows in serving certificates, or * for all of them; may be
    /// repeated [default: only the node's own name]
    #[arg(long, value_name = "NAME", value_parser = serving_name)]
    pub(crate) allow_serving_name: Vec<String>,
    /// Misbehave as this file says, YAML or JSON: which requests go wrong, and how (see below)
    #[arg(long, value_name = "FILE")]
    pub(crate) faults: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    Std,
    Smol,
}

impl Runtime {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Std => "std",
            Self::Smol => "smol",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// Patient with people, gentle with signers
    Default,
    /// client-go's numbers
    Kubelet,
}

impl Policy {
    pub(crate) fn numbers(self) -> perennial::Policy {
        match self {
            Self::Default => perennial::Policy::default(),
            Self::Kubelet => perennial::Policy::kubelet(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Approve {
    Auto,
    Manual,
}

/// What the log on stderr looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Sentences
    Text,
    /// One JSON object a line
    Json,
}

/// X.509 counts whole seconds: what lives less than two of them may be over before it is served.
fn demo_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = spans::parse(text)?;
    if lifetime < Duration::from_secs(2) {
        return Err("certificates count whole seconds; give them two at least, for example 2s".into());
    }
    Ok(lifetime)
}

/// A certificate that begins and ends in the same second cannot be signed, and nobody is told why it never comes.
fn signing_duration(text: &str) -> Result<Duration, String> {
    let span = spans::parse(text)?;
    if span < Duration::from_secs(1) {
        return Err("certificates count whole seconds; give them one at least, for example 6s".into());
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
    let span = spans::parse(text)?;
    if span > Duration::from_secs(365 * 86_400) {
        return Err("at most 365d: no clock is that wrong".into());
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
