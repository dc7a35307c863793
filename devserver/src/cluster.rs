//! [`TestCluster`]: an API server on a socket, with the CA, token and kubeconfigs that its clients need. For tests of
//! programs that request certificates.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubeconfig::{Endpoint, kubeconfig_with_certificate, kubeconfig_with_token};
use perennial_kubernetes::objects::CertificateSigningRequest;
use perennial_kubernetes::{CsrSigner, PodIdentity};
use perennial_pki::{Credential, Usage};
use perennial_rotation::{Authentication, Profile, Token, clock};
use zeroize::Zeroizing;

use crate::api::user::MASTERS;
use crate::faults::Plan;
use crate::{
    Api, ApiServer, Authority, AuthorityError, Decision, DecisionError, ObjectError, Options, PodSigner, Random,
    ServingApproval, Tls, TlsError, User,
};

/// Lifetime of the server's own credential and of the administrator's.
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Lifetime of a CA that [`TestCluster`] generates.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Configuration of a [`TestCluster`]. The default takes a free port of the loopback interface, generates a CA and a
/// bootstrap token, approves client and serving certificates of nodes, and also approves and signs requests for signer
/// names other than those of Kubernetes.
#[derive(Debug)]
pub struct ClusterSetup {
    /// The socket to serve on; `None` takes a free port of 127.0.0.1.
    pub listener: Option<TcpListener>,
    /// Behaviour of the API server.
    pub options: Options,
    /// The CA that signs requests; `None` generates one.
    pub authority: Option<Authority>,
    /// The CA that issues the server's own certificate; `None` uses `authority`.
    pub server_authority: Option<Authority>,
    /// The bootstrap token, such as `abcdef.0123456789abcdef`; `None` generates one.
    pub token: Option<Token>,
}

impl Default for ClusterSetup {
    fn default() -> Self {
        let approve_serving = ServingApproval::Any;
        let options = Options { approve_serving, other_signers: true, ..Options::default() };
        Self { listener: None, options, authority: None, server_authority: None, token: None }
    }
}

/// A running API server on its own thread, with a CA, a bootstrap token and an administrator. Dropping the
/// `TestCluster` stops the server.
#[derive(Debug)]
pub struct TestCluster {
    server: ApiServer,
    /// The server's own certificate and key.
    serving: Credential,
    admin: Arc<Credential>,
    token: Token,
    endpoint: Endpoint,
    cluster: Arc<Cluster>,
    /// True if the CA of the server's own certificate is not the CA that signs requests.
    has_own_ca: bool,
}

impl TestCluster {
    /// Starts a server with the default [`ClusterSetup`].
    ///
    /// # Errors
    /// The errors of [`TestCluster::start_with`].
    pub fn start() -> Result<Self, ClusterError> {
        Self::start_with(ClusterSetup::default())
    }

    /// Starts a server with this configuration.
    ///
    /// # Errors
    /// [`ClusterError::Io`] if the operating system provides no socket, thread or random numbers.
    /// [`ClusterError::Authority`] if a CA cannot sign, for example because the CA has expired. [`ClusterError::Tls`]
    /// if TLS cannot be set up with a CA. In each case, no server is running.
    pub fn start_with(setup: ClusterSetup) -> Result<Self, ClusterError> {
        let ClusterSetup { listener, options, authority, server_authority, token } = setup;
        let listener = listener.map_or_else(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), Ok)?;
        let (mut random, now) = (Random::from_os()?, clock::now().unix);
        let authority = authority.map_or_else(|| Authority::generate(&mut random, now, CA_LIFETIME), Ok)?;
        let token = match token {
            Some(token) => token,
            None => Token::new(&random.bootstrap_token()).map_err(io::Error::other)?,
        };

        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let address = listener.local_addr()?.ip();
        // Instead of an unspecified address, clients get a loopback address from `reachable`.
        if !address.is_unspecified() && !addresses.contains(&address) {
            addresses.push(address);
        }
        let server_ca = server_authority.as_ref().unwrap_or(&authority);
        let serving = server_ca.server_credential(&["localhost"], &addresses, &mut random, now, LIFETIME)?;
        let admin = Arc::new(administrator(&authority, &mut random, now)?);
        let tls = Tls::new(&authority, &serving)?;
        let (ca_pem, roots) = (Some(server_ca.certificate_pem().as_bytes().to_vec()), server_ca.roots()?);

        let mut api = Api::new(options, authority, random);
        // The part before the dot is public: user names contain it.
        let id = token.reveal().split('.').next().unwrap_or_default();
        api.add_token(token.reveal(), User::bootstrap(id));
        let server = ApiServer::start(listener, api, tls)?;
        let endpoint =
            Endpoint { server: format!("https://{}", reachable(server.address())), ca_pem, ..Endpoint::default() };
        let cluster = Cluster::from_url(&endpoint.server).map_err(io::Error::other)?;
        let cluster = Arc::new(cluster.with_roots(roots));
        Ok(Self { server, serving, admin, token, endpoint, cluster, has_own_ca: server_authority.is_some() })
    }

    /// The server's URL, for example `https://127.0.0.1:41234`.
    pub fn url(&self) -> &str {
        &self.endpoint.server
    }

    /// The CA certificates in PEM with which clients verify the server. Peers verify the issued certificates with them,
    /// too, unless [`ClusterSetup::server_authority`] is another CA.
    pub fn ca_pem(&self) -> &[u8] {
        self.endpoint.ca_pem.as_deref().unwrap_or_default()
    }

    /// The bootstrap token: its holder may request a node's first certificate.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The credential of an administrator, `CN=admin, O=system:masters`.
    pub fn admin(&self) -> &Arc<Credential> {
        &self.admin
    }

    /// URL and roots of the server, for perennial's client.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The signer of a node's client certificate. Requests authenticate with the bootstrap token until the node has a
    /// certificate, and with that certificate afterwards.
    pub fn node_signer(&self) -> CsrSigner {
        CsrSigner::kubelet_client(self.cluster.clone(), Some(Arc::new(self.token.clone())))
    }

    /// A signer with the signer name `name`, such as `example.com/mesh`, for certificates with any names. The server
    /// approves and signs them at once, unless the [`Options`] differ. All requests authenticate with the bootstrap
    /// token.
    pub fn signer(&self, name: &str, usage: Usage) -> CsrSigner {
        CsrSigner {
            signer_name: name.to_owned(),
            authentication: Authentication::Other(Arc::new(self.token.clone())),
            profile: Profile::new([usage]),
            ..self.node_signer()
        }
    }

    /// A kubeconfig with the bootstrap token.
    pub fn bootstrap_kubeconfig(&self) -> Zeroizing<String> {
        kubeconfig_with_token(&self.endpoint, "bootstrap", self.token.reveal())
    }

    /// A kubeconfig of the administrator, for `kubectl`.
    pub fn admin_kubeconfig(&self) -> Zeroizing<String> {
        kubeconfig_with_certificate(&self.endpoint, "admin", &self.admin)
    }

    /// The running server, for access to its API and its TLS configuration.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// The stored certificate signing requests, sorted by name.
    pub fn requests(&self) -> Vec<CertificateSigningRequest> {
        self.server.with_api(|api, _| api.requests().cloned().collect())
    }

    /// Approves or denies a request, as `kubectl certificate` does.
    ///
    /// # Errors
    /// The errors of [`Api::decide`]. No request changes then.
    pub fn decide(&self, name: &str, decision: Decision) -> Result<(), DecisionError> {
        self.server.with_api(|api, now| api.decide(name, decision, "decided by a test", now))
    }

    /// Creates a pod that is bound to the node `node_name`, with its service account and the Node object if they are
    /// missing, and returns the names and UIDs; see [`Api::put_pod`].
    ///
    /// # Errors
    /// The errors of [`Api::put_pod`].
    pub fn put_pod(
        &self,
        namespace: &str,
        name: &str,
        service_account_name: &str,
        node_name: &str,
    ) -> Result<PodIdentity, ObjectError> {
        self.server.with_api(|api, now| api.put_pod(namespace, name, service_account_name, node_name, now))
    }

    /// Deletes a pod and the certificate requests that it owns. Returns false if there is no such pod.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> bool {
        self.server.with_api(|api, _| api.delete_pod(namespace, name))
    }

    /// Sets the behaviour of the signer of pod certificates with this name; see [`Api::set_pod_signer`].
    pub fn set_pod_signer(&self, signer_name: &str, behaviour: PodSigner) {
        self.server.with_api(|api, now| api.set_pod_signer(signer_name, behaviour, now));
    }

    /// Gives the signer of pod certificates with this name a new CA of its own, adds the CA to the ClusterTrustBundle of
    /// the signer, and returns the CA's certificate in PEM; see [`Api::rotate_pod_signer`].
    ///
    /// # Errors
    /// [`ClusterError::Io`] if the operating system provides no random numbers, [`ClusterError::Authority`] if no CA can
    /// be generated, [`ClusterError::Object`] if the bundle cannot be written. The signer keeps its CA then.
    pub fn rotate_pod_signer(&self, signer_name: &str) -> Result<String, ClusterError> {
        let authority = Authority::generate(&mut Random::from_os()?, clock::now().unix, CA_LIFETIME)?;
        let pem = authority.certificate_pem().to_owned();
        self.server.with_api(|api, now| api.rotate_pod_signer(signer_name, authority, now))?;
        Ok(pem)
    }

    /// Creates the ClusterTrustBundle `name` of the signer `signer_name` with the CA certificates in `pem`, or replaces
    /// its certificates; see [`Api::put_trust_bundle`].
    ///
    /// # Errors
    /// [`ObjectError`] if a cluster would refuse the bundle. Nothing changes then.
    pub fn put_trust_bundle(&self, name: &str, signer_name: &str, pem: &str) -> Result<(), ObjectError> {
        self.server.with_api(|api, now| api.put_trust_bundle(name, signer_name, pem, now))
    }

    /// Applies the faults of `plan` from now on. Replaces the previous plan.
    pub fn set_faults(&self, plan: Plan) {
        self.server.with_api(|api, now| api.set_faults(plan, now));
    }

    /// Signs with `authority` from now on, and replaces the administrator's certificate. Certificates of earlier CAs
    /// stay trusted, and the server keeps its own certificate. If `authority` is the current one, changes nothing and
    /// returns false.
    ///
    /// # Errors
    /// [`ClusterError::Authority`] if `authority` cannot sign, or [`ClusterError::Io`] if the operating system returns
    /// no random numbers. In both cases the server continues with the previous authority. [`ClusterError::Tls`] if the
    /// server cannot verify clients by `authority`. In this case `authority` signs requests nevertheless.
    pub fn rotate_authority(&mut self, authority: Authority) -> Result<bool, ClusterError> {
        let pem = authority.certificate_pem().as_bytes().to_vec();
        if self.server.with_api(|api, _| api.authority().certificate_pem().as_bytes() == pem) {
            return Ok(false);
        }
        // Before any change: an authority that cannot sign must leave the server as it is.
        let admin = administrator(&authority, &mut Random::from_os()?, clock::now().unix)?;
        let (tls, roots) = self.server.with_api(|api, _| {
            api.rotate_authority(authority);
            (Tls::new(api.authority(), &self.serving), api.authority().roots())
        });
        self.server.set_tls(tls?);
        self.admin = Arc::new(admin);
        let bundle = self.endpoint.ca_pem.get_or_insert_default();
        // Clients verify the server by these roots. With a CA of its own for the server, they do not change.
        if !self.has_own_ca && !bundle.windows(pem.len()).any(|part| part == pem) {
            bundle.extend(pem);
            self.cluster = Arc::new(Cluster::clone(&self.cluster).with_roots(roots?));
        }
        Ok(true)
    }

    /// Closes all connections and waits for the server's thread to end.
    ///
    /// # Errors
    /// The error that ended the server before this call.
    pub fn shutdown(self) -> io::Result<()> {
        self.server.shutdown()
    }
}

fn administrator(authority: &Authority, random: &mut Random, now: UnixTime) -> Result<Credential, AuthorityError> {
    authority.client_credential("admin", &[MASTERS], random, now, LIFETIME)
}

/// The address by which a client on this machine reaches a server that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Error of a [`TestCluster`] that did not start, or of a CA that was not replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The operating system provides no socket, no thread or no random numbers.
    #[error("cannot run the API server: {0}")]
    Io(#[from] io::Error),
    /// A CA cannot be generated, or cannot sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The ClusterTrustBundle of a signer cannot be written.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// TLS of the server cannot be set up with one of the CAs.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
