//! The flags of `perennial run`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, ValueEnum};
use perennial_pki::KeyAlgorithm;

use super::trust_bundle::{TrustBundle, trust_bundle};
use super::values::{dns_name, node_ip, prefix, requested_lifetime, signer_name, span_or_never};
use super::{Observe, Runtime};
use crate::spans;
use crate::timing::Timing;

/// Keep this node's certificates rotated, as kubelet would
///
/// Without a certificate in the directory, perennial requests the first one with the bootstrap kubeconfig
/// (or, if none is given, with the user of the kubeconfig itself), and later ones with the certificate
/// itself. Once a certificate exists, perennial writes a kubeconfig that points at it, unless a usable
/// kubeconfig exists already.
///
/// SIGTERM and SIGINT end the process within ten seconds, even if a disk, a hook or the reader of the log
/// does not answer. The next start continues with the certificate in the directory and with the pending
/// request, so that no second request has to be approved, and a denial is remembered. SIGHUP reads all
/// files again and applies changes to the running rotations; flags stay as they are. SIGUSR1 rotates all
/// certificates now; `perennial rotate` rotates some. A submission budget limits the requests for each
/// certificate: after about eight rotations on demand in quick succession, each further one waits up to 90
/// seconds; the log has the time.
///
/// The files are laid out as kubelet's: DIR/kubelet-client-current.pem always links to the pair in use.
/// DIR/kubelet-client-pending.json holds the last request and its key. With --rotate-server-certificates
/// there is a second certificate, kubelet-server, for the addresses of the node, which perennial requests
/// with the client certificate.
///
/// With --certificates, a file takes the place of the flags that describe one certificate. A certificate that
/// cannot start, for example because a file is missing, is tried again every 30 seconds and does not affect the
/// others; if none can start, perennial fails. systemd is notified (READY=1) once all certificates are on disk, or
/// after a minute.
#[derive(Clone, Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  perennial run --cert-dir /var/lib/kubelet/pki --kubeconfig /etc/kubernetes/kubelet.conf \\
                --bootstrap-kubeconfig /etc/kubernetes/bootstrap-kubelet.conf
  perennial run --cert-dir pki --kubeconfig node.kubeconfig --once   # from a timer
  perennial run --cert-dir pki --kubeconfig node.kubeconfig --config /var/lib/kubelet/config.yaml \\
                --rotate-server-certificates --node-ip 10.0.0.7
  perennial run --cert-dir pki --kubeconfig admin.kubeconfig --prefix proxy --common-name proxy-1 \\
                --signer-name example.com/proxies --usage 'digital signature' --usage 'server auth' \\
                --dns proxy.example.com --key-type ed25519 --on-rotated 'systemctl reload proxy'
  perennial run --certificates /etc/perennial/certificates.yaml --control /run/perennial/control.sock

Events with --json (\"of\" names the certificate):
  started               the configuration is good, and the rotations run
  waiting_for_approval  a request waits for its approval: csr
  issued, rotated       a certificate is on disk, the first or a later one: serial, not_before, not_after
  kept                  the certificate that another program rotates, as it was at the start: fields as in issued
  resting, disabled     no request before the time rotate_at; or none at all, since rotation is off
  kubeconfig            the kubeconfig was written: path
  trust_bundle          a file of --trust-bundle was written: path, signer or name, certificates (their subjects)
  trouble               an error, after which perennial continues: reason
  reloaded              SIGHUP was handled; with a certificate list: added, changed, removed
  listening             --metrics-listen serves: address
  missed                events were dropped, because stdout was not read: count
  stopped, failed       the last event: ended by a signal or by --once, or failed: reason

For a slow reader, up to 1 MiB of log lines and up to 1 MiB of events are queued; later ones are dropped, and
their number is logged. With --once, perennial waits up to five seconds at its end until the result has been read
from stdout, and fails if it was not.

Exit codes:
  0  ended by a signal; with --once: every certificate is on disk and not due for rotation
  1  failed; with --once also: ended by a signal before that
  2  bad usage or input, found before anything was requested; the certificate directory is as it was"
)]
pub(crate) struct Run {
    /// The directory for certificates and keys; created if missing
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/pki")]
    pub(crate) cert_dir: PathBuf,
    /// The certificate list: a YAML file with any number of certificates, each with its signer, names, files, identity
    /// and hook. Excludes the flags that describe one certificate. SIGHUP reads the file again: perennial starts to rotate
    /// added certificates, ceases to rotate removed ones, whose files stay, applies changes, and leaves all others
    /// alone. `perennial check` validates the file; agent/docs/certificates.md explains it
    #[arg(long, value_name = "FILE")]
    pub(crate) certificates: Option<PathBuf>,
    /// The node's kubeconfig. Names the cluster if its credential is usable. perennial writes it once a certificate
    /// exists, if the file is missing, or if its credential is unusable and --bootstrap-kubeconfig is given
    #[arg(long, value_name = "FILE", required_unless_present = "certificates")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig with the credential for the first request. Names the cluster while --kubeconfig is not usable.
    /// perennial reads it again for each request without an accepted certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) bootstrap_kubeconfig: Option<PathBuf>,
    /// The proxy to the API server. A proxy-url in the kubeconfig takes precedence over this flag
    #[arg(long, value_enum, default_value_t = Proxy::Environment)]
    pub(crate) proxy: Proxy,
    /// The node's name, as kubelet's --hostname-override. Trimmed and converted to lower case, as in kubelet
    /// [default: the host name]
    #[arg(long, value_name = "NAME", alias = "hostname-override")]
    pub(crate) node_name: Option<String>,
    /// kubelet's configuration file. Its fields about certificates apply unless a flag overrides them
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Runtime of the rotations: plain threads (std), or futures on smol
    #[arg(long, value_enum, default_value_t = Runtime::Std)]
    pub(crate) runtime: Runtime,
    /// Exit once every certificate is on disk and not due for rotation
    #[arg(long)]
    pub(crate) once: bool,
    /// Report events on stdout as JSON, one object per line (see below)
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    #[command(flatten)]
    pub(crate) timing: Timing,
    /// Interval at which to check that the API server still accepts the client certificate, varied at random by up to
    /// half; 0: never. After two refusals at least a minute apart, perennial requests a new certificate with the
    /// bootstrap credential. This detects a replaced client CA before the next rotation
    #[arg(long, help_heading = "Timing", value_name = "DURATION", value_parser = span_or_never, default_value = "6h")]
    pub(crate) certificate_check_interval: Duration,
    /// Write the CA certificates of the signer's ClusterTrustBundles to a file (PEM), and replace the file when they
    /// change: signer=NAME,path=FILE, or name=NAME,path=FILE for one bundle. For example
    /// signer=example.com/mesh,path=/etc/mesh/ca.pem. May be repeated
    ///
    /// perennial reads the bundles with the node's certificate, whose user must be allowed to list and watch
    /// clustertrustbundles; nodes are. Add `replaceForeign=true` to replace a file that perennial did not write, and
    /// at the end `labels=SELECTOR` to select among the bundles of the signer, as in kubectl get -l. A certificate that
    /// is removed from the bundles is removed from the file. If a bundle is damaged, or the last one is deleted, perennial
    /// reports that, and removes no certificate. Rotations and the start do not wait for the bundles; with --once,
    /// perennial waits until each was read or an attempt has failed.
    #[arg(long, help_heading = "Trust bundles", value_name = "SPEC", value_parser = trust_bundle)]
    pub(crate) trust_bundle: Vec<TrustBundle>,
    #[command(flatten)]
    pub(crate) service: Service,
    #[command(flatten)]
    pub(crate) observe: Observe,
}

/// Flags of a run without a list, and the key of the certificate list that has the value of each.
const WITHOUT_LIST: [(&str, &str); 31] = [
    ("cert_dir", "store"),
    ("kubeconfig", "clusterKubeconfig"),
    ("bootstrap_kubeconfig", "identity: {bootstrapKubeconfig: FILE}"),
    ("config", "certificates"),
    ("rotate_certificates", "certificates"),
    ("rotate_server_certificates", "signer: kubernetes.io/kubelet-serving"),
    ("node_ip", "ipAddresses"),
    ("node_addresses", "ipAddresses"),
    ("tls_cert_file", "certificates"),
    ("tls_private_key_file", "certificates"),
    ("signer_name", "signer"),
    ("prefix", "store: {directory: {prefix: NAME}}"),
    ("common_name", "commonName"),
    ("organization", "organizations"),
    ("dns", "dnsNames"),
    ("ip", "ipAddresses"),
    ("uri", "uris"),
    ("usage", "usages"),
    ("key_type", "keyType"),
    ("requested_lifetime", "lifetime"),
    ("issuer_ca_file", "issuerCAFile"),
    ("accept_extra_rights", "acceptExtraRights"),
    ("policy_file", "timing"),
    ("policy", "timing: {policy: NAME}"),
    ("rotation_window", "timing: {rotationWindow: FROM-TO}"),
    ("request_timeout", "timing: {requestTimeout: DURATION}"),
    ("retry", "timing: {retry: FIRST-MOST}"),
    ("retry_refused", "timing: {retryRefused: FIRST-MOST}"),
    ("on_rotated", "onRotated"),
    ("on_rotated_timeout", "onRotated: {timeout: DURATION}"),
    ("trust_bundle", "trustBundles"),
];

/// The error for a flag whose value a certificate list has, beside `--certificates`; `None` if there is no such flag.
pub(super) fn conflict(matches: &ArgMatches) -> Option<String> {
    let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let (id, key) = WITHOUT_LIST.into_iter().find(|(id, _)| is_given(id))?;
    let flag = id.replace('_', "-");
    is_given("certificates").then(|| format!("--{flag} cannot be used with --certificates; in the file, use `{key}`"))
}

impl Run {
    /// The value of `--kubeconfig`; empty with `--certificates`.
    pub(crate) fn kubeconfig(&self) -> &Path {
        self.kubeconfig.as_deref().unwrap_or_else(|| Path::new(""))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// The proxy of HTTPS_PROXY, unless NO_PROXY exempts the API server, as in kubectl
    Environment,
    /// No proxy: connect directly
    None,
}

/// The certificates of a node.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates")]
pub(crate) struct Which {
    /// Rotate the client certificate [default: from --config, or true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) rotate_certificates: Option<bool>,
    /// Request a serving certificate and rotate it [default: from --config, or false]. The certificate is for the
    /// addresses of the Node object in the cluster, unless other addresses are given
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) rotate_server_certificates: Option<bool>,
    /// An address for the serving certificate, in addition to the node's name; may be repeated or hold several, for
    /// example 10.0.0.7,fd00::7. As in kubelet, 0.0.0.0 and :: alone mean the node's own addresses of that family:
    /// those of the Node object
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = node_ip)]
    pub(crate) node_ip: Vec<IpAddr>,
    /// A file with addresses for the serving certificate, in addition to the node's name: one IP address or DNS name
    /// per line. perennial reads it again when it changes
    #[arg(long, value_name = "FILE", conflicts_with = "node_ip")]
    pub(crate) node_addresses: Option<PathBuf>,
    /// A serving certificate that another program rotates. perennial reads and reports it, and never writes it
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// The key of --tls-cert-file
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
}

/// The request for another certificate than a node's client certificate.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Request")]
pub(crate) struct Wanted {
    /// Name of the signer, as in spec.signerName of a CSR
    #[arg(long, value_name = "NAME", value_parser = signer_name)]
    #[arg(default_value = perennial_kubernetes::objects::KUBELET_CLIENT_SIGNER)]
    pub(crate) signer_name: String,
    /// Prefix of the certificate's file names
    #[arg(long, value_name = "NAME", default_value = super::PREFIX, value_parser = prefix)]
    pub(crate) prefix: String,
    /// The common name to request [default: system:node:NAME, in the organization system:nodes]
    #[arg(long, value_name = "CN")]
    pub(crate) common_name: Option<String>,
    /// An organization to request; may be repeated
    #[arg(long, value_name = "O")]
    pub(crate) organization: Vec<String>,
    /// A DNS name to request; may be repeated
    #[arg(long, value_name = "NAME", value_parser = dns_name)]
    pub(crate) dns: Vec<String>,
    /// An IP address to request; may be repeated
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Vec<IpAddr>,
    /// A URI to request, for example the SPIFFE ID spiffe://example.com/payments; may be repeated
    #[arg(long, value_name = "URI")]
    pub(crate) uri: Vec<String>,
    /// A key usage to request, for example 'server auth'; may be repeated [default: as the signer requires]. perennial
    /// rejects issued certificates that lack a requested 'client auth' or 'server auth'
    #[arg(long, value_name = "USAGE")]
    pub(crate) usage: Vec<String>,
    /// Type of the generated keys
    #[arg(long, value_enum, default_value_t = KeyType::P256)]
    pub(crate) key_type: KeyType,
    /// Requested lifetime, at least ten minutes, for example 24h [default: the signer's]
    #[arg(long, value_name = "DURATION", value_parser = requested_lifetime)]
    pub(crate) requested_lifetime: Option<Duration>,
    /// CA certificates (PEM). perennial rejects issued certificates that do not chain to one of them, serving
    /// certificates too
    ///
    /// Without this flag, perennial can verify the signature of an issued certificate only if the signer sends its own
    /// certificate along. A certificate that was damaged or forged on the way is then noticed only when a peer rejects
    /// it.
    #[arg(long, value_name = "FILE")]
    pub(crate) issuer_ca_file: Option<PathBuf>,
    /// Accept issued certificates with URIs, and client certificates with organizations, that were not requested. Both
    /// can grant rights, so perennial rejects them by default; use this flag for a signer that adds its own.
    /// Certificates with another common name are always rejected
    #[arg(long)]
    pub(crate) accept_extra_rights: bool,
}

/// The hook after a rotation, and the exit without a certificate.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Service")]
pub(crate) struct Service {
    /// Run this command with sh after each new certificate, for example 'systemctl reload proxy', with
    /// PERENNIAL_CERTIFICATE, PERENNIAL_FILE and PERENNIAL_SERIAL set. The command runs at least once for the newest
    /// certificate: a failed run is repeated after 10s, later after up to 15m, and at the next start, also if perennial
    /// was killed before the run. DIR/PREFIX-hook.json records this; while the disk cannot be written to, a restart
    /// forgets it. Rotations do not wait for the command. When perennial ends, it gives the command five seconds, then
    /// kills it. With --once, perennial waits for the command and fails if the command fails
    #[arg(long, value_name = "COMMAND")]
    pub(crate) on_rotated: Option<String>,
    /// Time limit for a run of --on-rotated. A run that takes longer is killed with its process group and counts as
    /// failed
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = spans::parse, requires = "on_rotated")]
    pub(crate) on_rotated_timeout: Duration,
    /// Listen at this Unix socket for `perennial rotate`, for example /run/perennial/control.sock. Only the user of this
    /// process and root may connect. A socket that an ended process has left there is replaced [default: do not listen]
    #[arg(long, value_name = "FILE")]
    pub(crate) control: Option<PathBuf>,
    /// Exit with 1 after this long without a valid client certificate (with --certificates: without any valid
    /// certificate), for example 5m [default: never]
    #[arg(long, value_name = "DURATION", value_parser = spans::parse)]
    pub(crate) exit_without_certificate: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyType {
    /// ECDSA on P-256
    #[value(alias = "ECDSAP256")]
    P256,
    /// ECDSA on P-384
    #[value(alias = "ECDSAP384")]
    P384,
    /// ECDSA on P-521; only in a build with the feature aws-lc-rs; not every signer and peer supports it
    #[value(alias = "ECDSAP521")]
    P521,
    /// Ed25519; not every signer and peer supports it
    #[value(alias = "ED25519")]
    Ed25519,
    /// RSA of 3072 bits; only in a build with the feature aws-lc-rs
    #[value(alias = "RSA3072")]
    Rsa,
    /// RSA of 4096 bits; only in a build with the feature aws-lc-rs
    #[value(alias = "RSA4096")]
    Rsa4096,
}

impl KeyType {
    pub(crate) const fn algorithm(self) -> KeyAlgorithm {
        match self {
            Self::P256 => KeyAlgorithm::EcdsaP256,
            Self::P384 => KeyAlgorithm::EcdsaP384,
            Self::P521 => KeyAlgorithm::EcdsaP521,
            Self::Ed25519 => KeyAlgorithm::Ed25519,
            Self::Rsa => KeyAlgorithm::Rsa,
            Self::Rsa4096 => KeyAlgorithm::Rsa4096,
        }
    }
}
