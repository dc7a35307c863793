//! TLS servers and clients of the program with rotated credentials: which certificate peers see after a rotation.

use std::io::{BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use perennial::Template;
use perennial_dev::{Approval, Options, ServingApproval};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::{Interim, provider};
use perennial_rotation::tls::{ClientCert, ClientConfigs, ServerCert};
use perennial_rotation::{Handle, Identity, NotYet, clock};
use perennial_tests::loopback::{
    BOUND, LoopbackServer, Runtime, issued, new_authority, node, on_both, serve, serve_at,
};
use perennial_tests::tls::{answer, connect, fingerprint, hex, server};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientConfig, Resumption};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};

fn roots(cluster: &Cluster) -> Arc<RootCertStore> {
    cluster.roots().unwrap().roots().unwrap().store()
}

/// A server configuration that verifies client certificates of this cluster, and accepts clients without one.
fn knows_clients(api: &LoopbackServer) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&api.cluster), provider());
    let own = Interim::new(Template::new("server").with_dns_names(["localhost"]), clock::now().unix).unwrap();
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        .with_cert_resolver(Arc::new(ServerCert::new(perennial_rotation::tls::Source::new(|| None)).with_interim(own)))
}

fn client_config(roots: Option<Arc<RootCertStore>>) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    match roots {
        Some(roots) => config.with_root_certificates(roots).with_no_client_auth(),
        None => config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth(),
    }
}

/// Client configurations for a server that has the configuration [`knows_clients`]. They accept any server certificate,
/// since no CA has issued the server's.
fn configs(handle: &Handle) -> ClientConfigs {
    let configs = ClientConfigs::new(handle, || Err(NotYet::new("the verifier needs no CA")));
    configs.edit(|config| config.dangerous().set_certificate_verifier(Arc::new(Anybody)))
}

#[test]
fn server_sees_rotated_client_certificate_on_new_connections() {
    on_both(|runtime| {
        let api = serve(Approval::Auto);
        let handle = node(runtime, &api.cluster).start();
        let address = server(knows_clients(&api));
        let first = issued(&handle, 1);
        let configs = configs(&handle);
        let mut before = connect(address, configs.current());
        assert_eq!(answer(&mut before), (fingerprint(&first), false));
        // Between rotations, sessions are resumed.
        assert_eq!(answer(&mut connect(address, configs.current())), (fingerprint(&first), true));

        handle.rotate_now();
        let second = issued(&handle, 2);
        assert_eq!(answer(&mut connect(address, configs.current())), (fingerprint(&second), false));
        assert_eq!(answer(&mut connect(address, configs.current())), (fingerprint(&second), true));
        assert_eq!(answer(&mut before), (fingerprint(&first), false));
        // Session tickets of the old connection are not used by new ones.
        assert_eq!(answer(&mut connect(address, configs.current())).0, fingerprint(&second));
        handle.shutdown().wait();
    });
}

#[test]
fn client_resolver_presents_rotated_certificate_if_session_resumption_is_disabled() {
    let api = serve(Approval::Auto);
    let address = server(knows_clients(&api));
    let handle = node(Runtime::Std, &api.cluster).start();
    let mut config = client_config(None);
    config.client_auth_cert_resolver = Arc::new(ClientCert::new(&handle));
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    let first = issued(&handle, 1);
    assert_eq!(answer(&mut connect(address, config.clone())), (fingerprint(&first), false));
    handle.rotate_now();
    let second = issued(&handle, 2);
    assert_eq!(answer(&mut connect(address, config)), (fingerprint(&second), false));
    handle.shutdown().wait();
}

#[test]
fn client_presents_no_certificate_before_the_first_is_issued() {
    let api = serve(Approval::Manual);
    let address = server(knows_clients(&api));
    let handle = node(Runtime::Smol, &api.cluster).start();
    let configs = configs(&handle);
    assert_eq!(answer(&mut connect(address, configs.current())).0, "");
    handle.shutdown().wait();
}

/// A node that requests a serving certificate, authenticated by its client certificate.
fn serving(runtime: Runtime) -> (LoopbackServer, Handle) {
    let options = Options { approve_serving: ServingApproval::Any, ..Options::default() };
    let authority = new_authority();
    let mut random = perennial_dev::Random::from_os().unwrap();
    let day = std::time::Duration::from_secs(86_400);
    let now = clock::now().unix;
    let own = authority.client_credential("system:node:worker-1", &["system:nodes"], &mut random, now, day).unwrap();
    let api = serve_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), authority, options);
    let own = Arc::new(own);
    let mut holder = node(runtime, &api.cluster);
    let identity = Arc::new(move || Ok(Identity::Certificate(own.clone())));
    holder.signer = Some(CsrSigner::kubelet_serving(api.cluster.clone(), identity));
    holder.template = None;
    (api, holder.start())
}

/// A problem of another program: a server never serves its rotated certificate.
/// <https://github.com/linkerd/linkerd2/issues/5888>
#[test]
fn client_sees_rotated_serving_certificate_on_new_connections() {
    on_both(|runtime| {
        let (api, handle) = serving(runtime);
        let wanted =
            Template::node("worker-1").with_dns_names(["localhost"]).with_ip_addresses([Ipv4Addr::LOCALHOST.into()]);
        let own = Interim::new(wanted.clone(), clock::now().unix).unwrap();
        let provisional = fingerprint(&own.credential(clock::now().unix));
        let resolver: Arc<dyn ResolvesServerCert> = Arc::new(ServerCert::new(&handle).with_interim(own));
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let address = server(config.with_no_client_auth().with_cert_resolver(resolver));

        // The interim certificate completes handshakes of clients that do not verify it.
        let seen = |roots| {
            let mut stream = connect(address, Arc::new(client_config(roots)));
            answer(&mut stream);
            let shown = hex(&stream.get_ref().conn.peer_certificates().unwrap()[0]);
            (stream, shown)
        };
        assert_eq!(seen(None).1, provisional);

        let trusted = || Some(roots(&api.cluster));
        handle.set_template(Some(wanted)).unwrap();
        let first = issued(&handle, 1);
        let (mut before, shown) = seen(trusted());
        assert_eq!(shown, fingerprint(&first));
        handle.rotate_now();
        let second = issued(&handle, 2);
        assert_eq!(seen(trusted()).1, fingerprint(&second));
        answer(&mut before);
        handle.shutdown().wait();
    });
}

#[test]
fn client_sees_rotated_server_certificate_only_after_full_handshake() {
    on_both(|runtime| {
        let (api, handle) = serving(runtime);
        handle
            .set_template(Some(
                Template::node("worker-1")
                    .with_dns_names(["localhost"])
                    .with_ip_addresses([Ipv4Addr::LOCALHOST.into()]),
            ))
            .unwrap();
        let first = fingerprint(&issued(&handle, 1));
        let config = || {
            let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
            config.with_no_client_auth().with_cert_resolver(Arc::new(ServerCert::new(&handle)))
        };
        let resuming = server(config());
        let mut without_tickets = config();
        without_tickets.session_storage = Arc::new(NoServerSessionStorage {});
        without_tickets.send_tls13_tickets = 0;
        let full = server(without_tickets);
        // One client configuration throughout, as real clients have.
        let clients = [resuming, full].map(|address| (address, Arc::new(client_config(Some(roots(&api.cluster))))));
        // The server certificate that the client relies on, and whether its session was resumed.
        let seen = |(address, config): &(SocketAddr, Arc<ClientConfig>)| {
            let mut stream = connect(*address, config.clone());
            let (_, resumed) = answer(&mut stream);
            (hex(&stream.get_ref().conn.peer_certificates().unwrap()[0]), resumed)
        };
        let [resuming, full] = &clients;
        assert_eq!([seen(resuming), seen(resuming)], [(first.clone(), false), (first.clone(), true)]);
        assert_eq!([seen(full), seen(full)], [(first.clone(), false), (first.clone(), false)]);

        handle.rotate_now();
        let second = fingerprint(&issued(&handle, 2));
        // A resumed session presents no certificate: the client relies on that of the first handshake.
        assert_eq!(seen(resuming), (first, true));
        assert_eq!(seen(full), (second.clone(), false));
        let anew = (resuming.0, Arc::new(client_config(Some(roots(&api.cluster)))));
        assert_eq!([seen(&anew), seen(&anew)], [(second.clone(), false), (second, true)]);
        handle.shutdown().wait();
    });
}

/// A problem of other programs: a client connects before the server has its first serving certificate.
/// <https://github.com/kubernetes/kubeadm/issues/591>, <https://github.com/kubernetes/kubeadm/issues/1635>,
/// <https://github.com/syself/cluster-api-provider-hetzner/issues/920>
#[test]
fn server_without_any_certificate_rejects_handshakes() {
    let (_api, handle) = serving(Runtime::Std);
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let address = server(config.with_no_client_auth().with_cert_resolver(Arc::new(ServerCert::new(&handle))));
    let mut stream = connect(address, Arc::new(client_config(None)));
    let error = stream.get_mut().write_all(b"anybody?\n").and_then(|()| stream.read_line(&mut String::new()).map(drop));
    assert!(error.unwrap_err().to_string().contains("AccessDenied"));
    handle.shutdown().wait();
}

/// A problem of another program: a server never serves its rotated certificate.
/// <https://github.com/linkerd/linkerd2/issues/15109>
#[test]
fn rotations_report_old_and_new_credential() {
    on_both(|runtime| {
        let api = serve(Approval::Auto);
        let handle = node(runtime, &api.cluster).start();
        let mut rotations = handle.rotations();
        let first = rotations.recv().within(BOUND).unwrap();
        assert!(first.old.is_none());
        assert!(rotations.try_recv().is_none());
        // A late observer gets one notification, with the credential in use now.
        for n in 2..=3 {
            handle.rotate_now();
            issued(&handle, n);
        }
        let late = rotations.recv().within(BOUND).unwrap();
        assert_eq!(late.old.unwrap().chain(), first.new.chain());
        assert_eq!(late.new.chain(), handle.credential().unwrap().chain());
        handle.shutdown().wait();
        assert!(rotations.recv().within(BOUND).is_none());
    });
}

/// A verifier that accepts any server certificate. The tests themselves compare the certificate with the expected one.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
