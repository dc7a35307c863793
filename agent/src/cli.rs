//! The command line: what can be asked for, and what people are told about it.

mod listen;
mod observe;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use perennial::Window;

pub(crate) use observe::{Observe, Replay};
pub(crate) use run::{Proxy, Run, Which};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  bad usage or input; nothing was changed

Environment:
  PERENNIAL_LOG  what to log on stderr, for example warn, debug or perennial_rotation=trace
                 [default: info; for status, verify and replay: warn]
  HTTPS_PROXY, NO_PROXY  how run reaches the API server, as in kubectl (see run --proxy); status shows it
  SSL_CERT_FILE, SSL_CERT_DIR  where the system's CA certificates are, for a kubeconfig that names no CA";

/// The prefix of kubelet's client certificate files.
pub(crate) const PREFIX: &str = "kubelet-client";

/// The prefix of kubelet's serving certificate files.
pub(crate) const SERVING_PREFIX: &str = "kubelet-server";

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
    Run(Box<Run>),
    Status(Status),
    Verify(Verify),
    Replay(Replay),
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

/// What the log on stderr looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Sentences
    Text,
    /// One JSON object a line
    Json,
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
