//! Verifiers for rustls: trust the current CAs of a [`RootsSource`] in each handshake.

use std::sync::{Arc, Mutex, PoisonError};

use perennial_pki::{Roots, provider};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::RootsSource;

/// Verifies the certificates of TLS servers with the current CAs of a source. Checks the names of servers as webpki
/// does. While the source has no CAs, trusts the CAs of the previous handshake.
///
/// Only for configurations without session resumption: a server whose session is resumed is not verified again.
#[derive(Clone, Debug)]
pub struct ServerVerifier(Arc<Following<dyn ServerCertVerifier>>);

impl ServerVerifier {
    /// Makes a verifier that trusts the CAs of this source.
    pub fn new(roots: impl RootsSource + 'static) -> Self {
        Self(Following::new(roots, |roots| {
            Ok(WebPkiServerVerifier::builder_with_provider(roots.store(), provider()).build()?)
        }))
    }

    /// The CAs that a handshake would trust now.
    pub(super) fn roots(&self) -> Result<Roots, Error> {
        self.0.latest().map(|(roots, _)| roots)
    }
}

/// Verifies the certificates of TLS clients with the current CAs of a source. Refuses clients without a certificate,
/// unless [`optional`](Self::optional). While the source has no CAs, trusts the CAs of the previous handshake.
///
/// Only for configurations without session resumption: a client that resumes a session is not verified again, even if
/// its CA is no longer trusted. Set `session_storage` to [`NoServerSessionStorage`](rustls::server::NoServerSessionStorage)
/// and `send_tls13_tickets` to zero, as [`mutual_server_config`](super::mutual_server_config) does.
///
/// Sends no names of CAs to clients, since rustls requires a list of names that never changes. A client that has
/// several certificates has to know by itself which of them to present.
#[derive(Clone, Debug)]
pub struct ClientVerifier {
    following: Arc<Following<dyn ClientCertVerifier>>,
    mandatory: bool,
}

impl ClientVerifier {
    /// Makes a verifier that trusts the CAs of this source.
    pub fn new(roots: impl RootsSource + 'static) -> Self {
        let following = Following::new(roots, |roots| {
            WebPkiClientVerifier::builder_with_provider(roots.store(), provider()).build()
        });
        Self { following, mandatory: true }
    }

    /// Accepts clients without a certificate, too. A certificate that is presented has to be valid.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { mandatory: false, ..self }
    }
}

/// Makes a verifier for the current CAs of a source, and a new verifier when the CAs have changed.
#[derive(derive_more::Debug)]
struct Following<V: ?Sized> {
    #[debug("{}", roots.origin())]
    roots: Arc<dyn RootsSource>,
    #[debug(skip)]
    make: fn(&Roots) -> Result<Arc<V>, VerifierError>,
    #[debug(skip)]
    latest: Mutex<Option<Latest<V>>>,
}

type VerifierError = rustls::client::VerifierBuilderError;

/// The latest verifier, and the CAs that it trusts.
struct Latest<V: ?Sized> {
    roots: Roots,
    verifier: Arc<V>,
    /// True if the source had no CAs at the previous call.
    outdated: bool,
}

impl<V: ?Sized> Following<V> {
    fn new(roots: impl RootsSource + 'static, make: fn(&Roots) -> Result<Arc<V>, VerifierError>) -> Arc<Self> {
        Arc::new(Self { roots: Arc::new(roots), make, latest: Mutex::default() })
    }

    /// The verifier for a new handshake.
    fn verifier(&self) -> Result<Arc<V>, Error> {
        self.latest().map(|(_, verifier)| verifier)
    }

    /// The CAs for a new handshake, and their verifier. While the source has no CAs, these are those of the previous
    /// call.
    fn latest(&self) -> Result<(Roots, Arc<V>), Error> {
        let found = self.roots.roots();
        let mut held = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = match (&found, &mut *held) {
            (Ok(roots), Some(latest)) if latest.roots == *roots => latest,
            (Ok(roots), latest) => {
                let verifier = (self.make)(roots).map_err(|error| Error::General(error.to_string()))?;
                latest.insert(Latest { roots: roots.clone(), verifier, outdated: false })
            }
            (Err(_), Some(latest)) => latest,
            (Err(error), None) => return Err(Error::General(format!("no CAs to verify the peer with: {error}"))),
        };
        let was_outdated = std::mem::replace(&mut latest.outdated, found.is_err());
        let (roots, verifier) = (latest.roots.clone(), latest.verifier.clone());
        // Released first: subscribers of `tracing` are foreign code, and may begin a handshake themselves.
        drop(held);
        if let Err(error) = found
            && !was_outdated
        {
            // Logged once, not in every handshake.
            tracing::warn!("no CAs to verify peers with: {error}; verifying with the CAs known before");
        }
        Ok((roots, verifier))
    }
}

fn tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
}

fn tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verifier()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.following.verifier()?.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use perennial::Template;
    use perennial_pki::interim;
    use tracing::span::{Attributes, Id, Record};

    use super::*;
    use crate::{NotYet, clock};

    /// A `tracing` subscriber that begins a handshake at each log line, as if it sent the line over TLS.
    struct LogSender(ServerVerifier, mpsc::Sender<bool>);

    impl tracing::Subscriber for LogSender {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            self.1.send(self.0.roots().is_ok()).unwrap();
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn log_subscriber_may_begin_handshake_while_source_fails() {
        let own = interim(&Template::new("server"), clock::now().unix).unwrap();
        let found = Arc::new(Mutex::new(Ok(Roots::from_pem(own.chain().pem().as_bytes()).unwrap())));
        let shared = found.clone();
        let verifier = ServerVerifier::new(move || shared.lock().unwrap().clone());
        verifier.roots().unwrap();
        *found.lock().unwrap() = Err(NotYet::new("the disk fails"));
        let (sent, received) = mpsc::channel();
        let sender = LogSender(verifier.clone(), sent);
        thread::spawn(move || tracing::subscriber::with_default(sender, || verifier.roots().map(drop)));
        assert_eq!(received.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
}
