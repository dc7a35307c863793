//! TLS settings, made anew for each connection. No TLS session is resumed, since a resumed session would bypass a
//! rotated certificate. The time at which the server's certificate is verified comes from the caller's clock.

use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;
use perennial_pki::{Roots, provider};
use perennial_rotation::Identity;
use rustls::client::Resumption;
use rustls::pki_types::{ServerName, UnixTime as TlsTime};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection};

use super::exchange_error::ExchangeError;
use super::trust::{Presented, Verifier};
use crate::cluster::Cluster;

/// Makes a TLS client connection to `cluster`, authenticated as `identity`. The server's certificate is verified with
/// `roots`, at the time `now`; without `roots`, any certificate is accepted.
pub(super) fn connection(
    cluster: &Cluster,
    roots: Option<Roots>,
    identity: &Identity,
    now: UnixTime,
) -> Result<(ClientConnection, Presented), ExchangeError> {
    let presented = Presented::default();
    let verifier = Arc::new(Verifier::new(roots, presented.clone())?);
    let settings = ClientConfig::builder_with_details(provider(), Arc::new(FixedTime::new(now)))
        .with_safe_default_protocol_versions()
        .map_err(ExchangeError::setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut settings = match identity.certificate() {
        None => settings.with_no_client_auth(),
        // Sent whatever CAs the server hints at: the alert of a server that refuses the certificate names the cause.
        Some(credential) => {
            settings.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified_key())))
        }
    };
    // TLS resumes a session without sending the client certificate again, so with the one before the rotation.
    settings.resumption = Resumption::disabled();
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(cluster.tls_server_name().to_owned()).map_err(ExchangeError::setup)?;
    let connection = ClientConnection::new(Arc::new(settings), name).map_err(ExchangeError::setup)?;
    Ok((connection, presented))
}

/// The wall-clock time at which the connection was made. This time does not advance, since a handshake lasts only
/// seconds.
#[derive(Debug)]
struct FixedTime(Option<TlsTime>);

impl FixedTime {
    fn new(now: UnixTime) -> Self {
        let seconds = u64::try_from(now.as_secs()).ok();
        Self(seconds.map(|seconds| TlsTime::since_unix_epoch(Duration::from_secs(seconds))))
    }
}

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<TlsTime> {
        self.0
    }
}
