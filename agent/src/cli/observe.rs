//! Flags for observing a run, and the command `replay`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::listen;
use crate::sizes;

/// Metrics and journal.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Observing")]
pub(crate) struct Observe {
    /// Serve /metrics for Prometheus, /healthz, /readyz, /state and, at /, a page for browsers at this address, without
    /// encryption: IP:PORT, localhost:PORT, or :PORT for all addresses of the host, for example 127.0.0.1:9090
    /// [default: not served]. Each metric has a HELP line; agent/docs/metrics.md lists them. If the address is taken,
    /// perennial runs and tries again every five seconds
    #[arg(long, value_name = "ADDR", value_parser = listen::address)]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Additional name to accept in the Host header of requests to --metrics-listen, for example worker-1.example; may
    /// be repeated. IP addresses, localhost, the host name and the node name are always accepted. Requests with other
    /// names are refused, since a web page of another site may have sent them (DNS rebinding)
    #[arg(long, value_name = "NAME", requires = "metrics_listen")]
    pub(crate) metrics_host: Vec<String>,
    /// Write every step of every rotation to this file, for `perennial replay`; the file contains no secrets. While the
    /// file cannot be written, steps are lost: the log reports the loss, and the file has their number later. A file
    /// that is not a journal stays unchanged
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Size limit of the journal, for example 16MiB. A full journal is moved to FILE.1, which it replaces
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = journal_limit, requires = "journal")]
    pub(crate) journal_limit: u64,
}

/// Replay the steps of a journal, and print what happened
///
/// `perennial run --journal FILE` writes journals. A certificate's rotation depends on the events and times in
/// the journal only, so replay repeats each step, prints its result, and reports steps whose result differs
/// from the journal.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial replay /var/log/perennial.journal.1 /var/log/perennial.journal
  ssh worker-1 cat perennial.journal | perennial replay -
  perennial replay --json FILE | jq 'select(.failure)'

Events with --json: begin (with perennial: the version that wrote the journal) and step (place, of, at,
happened, followed, leaves, failure), differs (place, of, at, reason), damaged (place, reason), cut (place);
then summary. \"of\" names the certificate.

Exit codes:
  0  every step is identical
  1  a step is different, or a line is damaged; stderr lists the lines
  2  bad usage or input: a file cannot be read, or is not a journal"
)]
pub(crate) struct Replay {
    /// Journals, the oldest first; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print also clock checks that change nothing
    #[arg(long)]
    pub(crate) all: bool,
    /// Report on stdout as JSON, one object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Parses `--journal-limit`, in bytes. Requires at least 4 KiB: that has room for a snapshot of each certificate's
/// machine, and for steps after the snapshots.
fn journal_limit(text: &str) -> Result<u64, String> {
    match sizes::parse(text)? {
        0..4096 => Err("a journal takes 4KiB at least, for example 16MiB".into()),
        size => Ok(size),
    }
}
