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
    /// Serve /metrics for Prometheus, /healthz, /readyz and /state here, without encryption: IP:PORT, localhost:PORT, or
    /// :PORT for all addresses of the host [default: nowhere]. Each metric has a HELP line; agent/docs/metrics.md lists
    /// them. If the address is taken, perennial runs and tries again every five seconds
    #[arg(long, value_name = "ADDR", value_parser = listen::address)]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Additional name to accept in the Host header of requests to --metrics-listen; may be given again. IP addresses,
    /// localhost, the host name and the node name are always accepted. Requests with other names are refused, since a
    /// web page of another site may have sent them (DNS rebinding)
    #[arg(long, value_name = "NAME", requires = "metrics_listen")]
    pub(crate) metrics_host: Vec<String>,
    /// Write every step of the rotation to this file, for `perennial replay`; the file contains no secrets. While it cannot
    /// be written, steps are lost, which the log reports and the file counts. A file that is no journal stays unchanged
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Size limit of the journal. A full journal is moved to FILE.1 and replaces the one before
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = journal_limit, requires = "journal")]
    pub(crate) journal_limit: u64,
}

/// Replay every step of a journal, and print what happened
///
/// `perennial run --journal FILE` writes journals. A certificate's machine depends on the events and times in
/// the journal only, so replay executes each step again, prints its result, and finds steps that have another
/// result now.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial replay /var/log/perennial.journal.1 /var/log/perennial.journal
  ssh worker-1 cat perennial.journal | perennial replay -
  perennial replay --json FILE | jq 'select(.failure)'

Events with --json: begin (with perennial: the version that wrote it) and step (place, of, at, happened,
followed, leaves, failure), differs and
damaged (place, reason), cut (place); then summary.

Exit codes:
  0  every step is identical
  1  a step is different, or a line is damaged; stderr lists the lines
  2  bad usage or input: a file cannot be read, or is no journal"
)]
pub(crate) struct Replay {
    /// Journals, the oldest first; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print uneventful ticks, too
    #[arg(long)]
    pub(crate) all: bool,
    /// Report on stdout as JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Parses `--journal-limit`, in bytes. Requires 4 KiB: a file holds a snapshot of each certificate's machine and steps.
fn journal_limit(text: &str) -> Result<u64, String> {
    match sizes::parse(text)? {
        0..4096 => Err("a journal takes 4KiB at least, for example 16MiB".into()),
        size => Ok(size),
    }
}
