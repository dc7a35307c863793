//! The command line and its help.

mod check;
mod listen;
mod observe;
mod run;
mod trust_bundle;
mod values;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::timing::Timing;
pub(crate) use check::Check;
pub(crate) use observe::{Observe, Replay};
pub(crate) use run::{KeyType, Proxy, Run, Which};
pub(crate) use trust_bundle::TrustBundle;
pub(crate) use values::{prefix, requested_lifetime, signer_name};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  bad usage or input; nothing was changed

Environment:
  PERENNIAL_LOG  levels and targets to log on stderr, for example warn, debug or perennial_rotation=trace
                 [default: info; for status, verify, check and replay: warn]
  HTTPS_PROXY, NO_PROXY  how run reaches the API server, as in kubectl (see run --proxy); status shows it
  SSL_CERT_FILE, SSL_CERT_DIR  where the system's CA certificates are, for a kubeconfig that names no CA";

/// The prefix of kubelet's client certificate files.
pub(crate) const PREFIX: &str = "kubelet-client";

/// The prefix of kubelet's serving certificate files.
pub(crate) const SERVING_PREFIX: &str = "kubelet-server";

/// Requests certificates from a Kubernetes API server and rotates them: those of a node, or any others
#[derive(Debug, Parser)]
#[command(name = "perennial", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Format of the log on stderr
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<Run>),
    Status(Status),
    Verify(Verify),
    Check(Check),
    Replay(Replay),
    Rotate(Rotate),
}

impl Cli {
    /// Parses the arguments of this process. For wrong ones, prints the error and ends the process with exit code 2.
    pub(crate) fn of_process() -> Self {
        let matches = Self::command().get_matches();
        if let Some(("run", run)) = matches.subcommand()
            && let Some(why) = run::conflict(run)
        {
            Self::command().error(ErrorKind::ArgumentConflict, why).exit();
        }
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Flags of `status` for a certificate directory, which `--certificates` excludes.
const OF_DIRECTORY: [&str; 10] = [
    "cert_dir",
    "prefix",
    "kubeconfig",
    "policy_file",
    "policy",
    "rotation_window",
    "request_timeout",
    "retry",
    "retry_refused",
    "trust_bundle",
];

/// Show the certificates of a certificate directory, and when they will be rotated
///
/// Reads the directory and changes nothing. `perennial run` computes the same rotation point if it has the
/// same --policy, --policy-file and --rotation-window: the point depends only on these, the certificate and
/// the signer. A `run` whose common name was changed by SIGHUP keeps its own point until its next start. Also
/// shows a request that has no certificate yet (its name, its age and, after a refusal, the time of the next
/// request), the previous pairs, and problems with their remedies. Shows the serving certificate,
/// kubelet-server, if it has files. With --kubeconfig, shows the API server of `run` as well: its URL, the CAs
/// that verify it and the proxy, each with its source. Contacts no server: `perennial run` checks that the API
/// server accepts the certificate (--certificate-check-interval).
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
  perennial status --certificates /etc/perennial/certificates.yaml
  perennial status --certificates certificates.yaml --json | jq -r '.certificates.node.rotate_at'
  perennial status --certificates certificates.yaml --json | jq -r '.trust_bundles[] | .path, .error'

Exit codes:
  0  good: valid, with its key, and not due for rotation; so are all other certificates that are shown, and
     every trust bundle is written
  1  not good: no certificate, expired, not yet valid, due, damaged, unreadable, or the key does not match; or a
     trust bundle is not written
  2  bad usage or input: the directory or the list cannot be read, or a kubeconfig cannot be used (the rest
     is shown)"
)]
pub(crate) struct Status {
    /// The certificate directory, such as kubelet's --cert-dir
    #[arg(long, value_name = "DIR", required_unless_present = "certificates")]
    pub(crate) cert_dir: Option<PathBuf>,
    /// The certificate list of `run --certificates`. Shows all certificates of the list, with the timing that the list gives each,
    /// and its trust bundles
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_DIRECTORY)]
    pub(crate) certificates: Option<PathBuf>,
    /// The node's name, for ${NODE_NAME} in the list, as with `run` [default: the environment variable
    /// NODE_NAME, or the host name]
    #[arg(long, value_name = "NAME", requires = "certificates")]
    pub(crate) node_name: Option<String>,
    /// Prefix of the certificate's file names [default: kubelet-client, and kubelet-server if it has files]
    #[arg(long, value_name = "NAME", value_parser = prefix)]
    pub(crate) prefix: Option<String>,
    /// The kubeconfig given to `run`. Shows the API server, the CAs that verify it and the proxy in use
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The bootstrap kubeconfig, if `run` was given this flag: while it exists it names the API server, unless the
    /// kubeconfig's own user is usable
    #[arg(long, value_name = "FILE", requires = "kubeconfig")]
    pub(crate) bootstrap_kubeconfig: Option<PathBuf>,
    /// The proxy to the API server, as with `run`. HTTPS_PROXY and NO_PROXY are read from this command's environment,
    /// which may differ from that of a service
    #[arg(long, value_enum, default_value_t = Proxy::Environment, requires = "kubeconfig")]
    pub(crate) proxy: Proxy,
    #[command(flatten)]
    pub(crate) timing: Timing,
    /// A file of CA certificates that `run` writes, with the value that `run` has for this flag: shows the certificates in
    /// the file and when they were written, or why not. May be repeated
    #[arg(long, value_name = "SPEC", value_parser = trust_bundle::trust_bundle)]
    pub(crate) trust_bundle: Vec<TrustBundle>,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check whether kubelet and perennial could start from a certificate directory
///
/// Reads the directory and changes nothing. "Start" means: without a bootstrap credential. kubelet reads the
/// first of these that exists, and gives up if it holds no pair: DIR/kubelet-client-current.pem, then
/// kubelet-client.crt with kubelet-client.key. kubelet also has to be able to put the next certificate in
/// place. perennial uses the best pair of the directory, and has to be able to write to the directory and to
/// lock its files. Permissions are checked for the user who runs this command. The serving certificate,
/// kubelet-server, is checked if it has files; it may be missing or expired, since it is requested with the
/// client certificate. The files that kubelet's own kubeconfig names are not checked.
///
/// For a certificate list, the files that its keys name are read as well, as by `perennial run`. A certificate
/// may be missing if the credential that requests it can be read; the API server may still refuse that credential. A
/// trust bundle may be missing, too, if the file of its identity can be read, and its own file can be written.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial verify --cert-dir /var/lib/kubelet/pki
  perennial verify --cert-dir /var/lib/kubelet/pki --json | jq -r '.certificates[].kubelet.faults[].why'
  perennial verify --certificates /etc/perennial/certificates.yaml

Exit codes:
  0  both could start
  1  kubelet or perennial could not: the output names which one, why, and what to do
  2  bad usage or input: the directory or the list cannot be read"
)]
pub(crate) struct Verify {
    /// The certificate directory, such as kubelet's --cert-dir
    #[arg(long, value_name = "DIR", required_unless_present = "certificates")]
    pub(crate) cert_dir: Option<PathBuf>,
    /// The certificate list of `run --certificates`. Checks whether perennial could start with each certificate of the
    /// list, or could request it; kubelet's verdict is for --cert-dir only
    #[arg(long, value_name = "FILE", conflicts_with = "cert_dir")]
    pub(crate) certificates: Option<PathBuf>,
    /// The node's name, for ${NODE_NAME} in the list, as with `run` [default: the environment variable
    /// NODE_NAME, or the host name]
    #[arg(long, value_name = "NAME", requires = "certificates")]
    pub(crate) node_name: Option<String>,
    /// A file of CA certificates, with the value that `run` has for this flag: checks whether perennial could write the
    /// file. May be repeated
    #[arg(long, value_name = "SPEC", conflicts_with = "certificates", value_parser = trust_bundle::trust_bundle)]
    pub(crate) trust_bundle: Vec<TrustBundle>,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Rotate certificates of a running `perennial run` now, whether or not they are due
///
/// Needs `perennial run --control FILE`, whose socket only its user and root may connect to. `perennial run` then
/// requests a new certificate for each name, at once unless its submission budget makes the request wait. This
/// command does not wait for the certificates: the log of `perennial run` reports them.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial rotate kubelet-client
  perennial rotate --control /run/perennial/control.sock kube-proxy etcd-peer
  perennial rotate                     # all certificates

Exit codes:
  0  `perennial run` rotates the certificates
  1  failed: no `perennial run` listens at the socket, or it does not answer
  2  bad usage or input: one of the names is unknown, or perennial does not rotate that certificate; nothing was
     requested"
)]
pub(crate) struct Rotate {
    /// Names of certificates: with a certificate list, the names in the list; without, the prefixes of the files, such
    /// as kubelet-client [default: all certificates]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// The socket of `perennial run --control`
    #[arg(long, value_name = "FILE", default_value = "/run/perennial/control.sock")]
    pub(crate) control: PathBuf,
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

/// Format of the log on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line of text per event
    Text,
    /// One JSON object per line
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_of_flags_passes_clap_debug_assert() {
        Cli::command().debug_assert();
    }
}
