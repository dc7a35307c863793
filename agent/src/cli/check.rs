//! Flags of `perennial check`.

use std::path::PathBuf;

use clap::Args;

/// Check a certificate list, and show what a run with this list would do
///
/// Reads the list and changes nothing. Reports all errors of the list at once, each with line, column,
/// certificate and remedy. For a good list, shows each certificate: what is requested from which signer, with
/// whose identity, where its files go, when it is rotated, and what follows a rotation. Replaces variables
/// such as ${NODE_IP} by their values in this command's environment: give it the environment of the service.
/// Contacts no server, and does not read the kubeconfigs, tokens and certificates that the list names: whether
/// these work, only `perennial run` finds out.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial check /etc/perennial/certificates.yaml
  NODE_IP=10.0.0.7 perennial check --node-name worker-1 certificates.yaml   # on another machine
  perennial check --json certificates.yaml | jq -r '.certificates[].files[]'

Exit codes:
  0  the list is good
  2  bad usage or input: the list has errors, or cannot be read"
)]
pub(crate) struct Check {
    /// The certificate list
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The value of ${NODE_NAME}, as with `run` [default: the environment variable NODE_NAME, or the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
