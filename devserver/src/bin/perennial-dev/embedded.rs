//! The embedded API server on a socket, as demo and signer use it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;
use perennial_dev::faults::Plan;
use perennial_dev::{
    Answer, Api, ApiRequest, Authority, Host, Identity, Method, Next, Options, Random, ServerHandle, Tls, Watcher,
};
use perennial_kubernetes::kubeconfig::Endpoint;
use perennial_kubernetes::objects::CertificateSigningRequest;
use perennial_pki::Credential;
use perennial_std::clock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::Failure;

/// How long certificates live that only this process, or its user, needs.
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);
const ADMINISTRATORS: &str = "system:masters";

/// A server that runs. Dropping it stops it.
pub(crate) struct Embedded {
    server: ServerHandle,
    serving: Credential,
    /// Clients know this server by a CA that signs nothing else.
    has_own_ca: bool,
    /// Where it is, and how it is known.
    pub(crate) endpoint: Endpoint,
    /// `CN=admin, O=system:masters`.
    pub(crate) admin: Credential,
}

impl Embedded {
    /// Serves on a thread of its own. Whoever knows `token` may ask for a node's first certificate. The server's own
    /// certificate is signed by `own`, or else by `authority` too.
    pub(crate) fn start(
        listener: TcpListener,
        options: Options,
        authority: Authority,
        own: Option<&Authority>,
        token: &str,
    ) -> Result<Self, Failure> {
        let mut random = Random::from_os().map_err(Failure::failed)?;
        let now = clock::now().unix;
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let address = listener.local_addr().map_err(Failure::failed)?.ip();
        if !address.is_loopback() && !address.is_unspecified() {
            addresses.push(address);
        }
        let knows = own.unwrap_or(&authority);
        let serving = knows.server_credential(&["localhost"], &addresses, &mut random, now, LIFETIME);
        let serving = serving.map_err(Failure::usage)?;
        let admin = administrator(&authority, &mut random, now)?;
        let tls = Tls::new(&authority, &serving).map_err(Failure::failed)?;
        let ca_pem = knows.certificate_pem().as_bytes().to_vec();

        let mut api = Api::new(options, authority, random);
        let id = token.split_once('.').map_or(token, |(id, _)| id);
        api.add_token(token, Identity::bootstrap(id));
        let server = Host::new(listener, api, tls).and_then(Host::spawn).map_err(Failure::failed)?;
        let endpoint = Endpoint {
            server: format!("https://{}", reachable(server.address())),
            ca_pem: Some(ca_pem),
            ..Endpoint::default()
        };
        Ok(Self { server, serving, has_own_ca: own.is_some(), endpoint, admin })
    }

    /// Lets `authority` sign from now on, and the administrator's certificate be one of its own. Whoever has one of an
    /// authority before stays trusted, and so does this server: its own certificate does not change before it starts
    /// again. False if nothing changes.
    pub(crate) fn rotate_authority(&mut self, authority: Authority) -> Result<bool, Failure> {
        let pem = authority.certificate_pem().as_bytes().to_vec();
        if self.server.with_api(|api, _| api.authority().certificate_pem().as_bytes() == pem) {
            return Ok(false);
        }
        let mut random = Random::from_os().map_err(Failure::failed)?;
        let admin = administrator(&authority, &mut random, clock::now().unix)?;
        let tls = self.server.with_api(|api, _| {
            api.rotate_authority(authority);
            Tls::new(api.authority(), &self.serving)
        });
        self.server.set_tls(tls.map_err(Failure::failed)?);
        self.admin = admin;
        let bundle = self.endpoint.ca_pem.get_or_insert_default();
        if !self.has_own_ca && !bundle.windows(pem.len()).any(|part| part == pem) {
            bundle.extend(pem);
        }
        Ok(true)
    }

    /// Goes wrong from now on as `plan` says.
    pub(crate) fn set_faults(&self, plan: Plan) {
        self.server.with_api(|api, now| api.set_faults(plan, now));
    }

    /// Watches all certificate signing requests, those that are there first, in place of a watch that has ended.
    pub(crate) fn watch(&self, ended: Option<Watcher>) -> Result<Watcher, Failure> {
        let target = "/apis/certificates.k8s.io/v1/certificatesigningrequests?watch=true";
        let mut request = ApiRequest::new(Method::Get, target);
        request.peer = Some(Arc::new(Identity::new("perennial", [ADMINISTRATORS])));
        let answer = self.server.with_api(|api, now| {
            // Its place is free for the next one, and for nobody else.
            drop(ended);
            api.handle(&request, now)
        });
        match answer {
            Answer::Watch(watcher) => Ok(watcher),
            answer => Err(Failure::Failed(format!("the embedded server does not let itself be watched: {answer:?}"))),
        }
    }

    /// True if only a person may approve this request.
    pub(crate) fn waits_for_a_person(&self, request: &CertificateSigningRequest) -> bool {
        self.server.with_api(|api, _| api.waits_for_a_person(request))
    }

    /// The next event of a watch, a line of JSON, and the version it was looked for at.
    pub(crate) fn next_event(&self, watcher: &mut Watcher) -> (Next, u64) {
        self.server.with_api(|api, now| (api.next_event(watcher, now), api.version()))
    }

    /// Waits until something has changed since that version.
    pub(crate) async fn changed(&self, since: u64) {
        self.server.changed(since).await;
    }

    /// Closes all connections, and waits until that is done.
    pub(crate) fn shutdown(self) -> Result<(), Failure> {
        self.server.shutdown().map_err(|error| Failure::Failed(format!("the embedded server: {error}")))
    }
}

fn administrator(authority: &Authority, random: &mut Random, now: UnixTime) -> Result<Credential, Failure> {
    authority.client_credential("admin", &[ADMINISTRATORS], random, now, LIFETIME).map_err(Failure::usage)
}

/// Every client is a file descriptor, and the usual limit is fewer than the server takes: asks for what is allowed.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be had, clients wait to be accepted.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Takes the socket to serve on, which is to come before anything is written: it may be taken.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| Failure::Usage(format!("cannot listen on {address}: {error}")))
}

/// Where a client on this machine finds a server that listens here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
