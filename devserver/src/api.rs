//! [`Api`]: the state of the API server, and its answers to requests.

mod access;
mod body;
mod bundle;
pub(crate) mod controllers;
mod csr;
pub(crate) mod direct;
mod discovery;
pub mod faults;
mod fields;
pub(crate) mod list;
pub(crate) mod message;
mod metadata;
mod nodes;
mod object;
mod openapi;
mod options;
mod patch;
mod plain;
mod pod_request;
pub(crate) mod pod_signer;
mod protobuf;
mod requests;
mod resource;
mod review;
mod selector;
pub(crate) mod serving;
mod signer;
pub(crate) mod status;
mod store;
mod table;
mod update;
pub(crate) mod user;
mod validation;
pub(crate) mod watch;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use perennial::UnixTime;

use crate::authority::Authority;
use crate::random::Random;
use access::Attributes;
use faults::Faults;
use list::Listing;
use message::{Answer, ApiRequest, Response};
use pod_signer::PodSigners;
use resource::{Key, Resource};
use serving::ServingApproval;
use store::Store;
use user::{Tokens, User};
use watch::{Next, Watcher};

/// The approver of requests: the server by its rules, or a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approval {
    /// The server approves three kinds of requests: those for nodes' client certificates, as a cluster's controller
    /// does, those for serving certificates that [`Options::approve_serving`] covers, and those for other signer names
    /// if [`Options::other_signers`] is true. A person decides about all other requests.
    #[default]
    Auto,
    /// A person decides about every request.
    Manual,
}

/// Behaviour of the server. By default the server behaves like a cluster, except that it allows lifetimes below ten
/// minutes, backdates short-lived certificates by less, and removes old requests earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Minor version of the Kubernetes 1.x release whose certificates API the server imitates. Below 22, the server
    /// removes `expirationSeconds` from new requests. Below 19, discovery lists only `v1beta1`, and every path of
    /// certificate signing requests gets 404.
    pub minor: u32,
    /// The approver of requests: the server or a person.
    pub approval: Approval,
    /// The serving certificates that [`Approval::Auto`] approves for nodes.
    pub approve_serving: ServingApproval,
    /// True to sign requests for signer names outside `kubernetes.io/`, such as `example.com/mesh`, and to approve them
    /// under [`Approval::Auto`]. A certificate signing request may have any names and usages, and any subject without the
    /// organization `system:masters`. Pod certificate requests need no approval: see [`PodSigner`](crate::PodSigner). A
    /// cluster does not sign for these signer names.
    pub other_signers: bool,
    /// True to accept `expirationSeconds` below 600; a cluster refuses such values.
    pub allow_short: bool,
    /// Longest lifetime of an issued certificate, like `--cluster-signing-duration` of kube-controller-manager. A
    /// request without `expirationSeconds` gets this lifetime. Of a pod's certificate, it is an hour at least.
    pub signing_duration: Duration,
    /// Time from a certificate's notBefore to its signing. `None` is five minutes or a twentieth of the lifetime,
    /// whichever is shorter.
    pub backdate: Option<Duration>,
    /// Time between the approval of a request and the signing of its certificate.
    pub signing_delay: Duration,
    /// Largest number of stored objects of all resources. The creation of a further one is answered with 429.
    pub capacity: usize,
    /// Number of latest changes of objects that the server remembers. A watch that falls further behind gets an `ERROR`
    /// event with 410.
    pub history: usize,
    /// Limit for the total size of the stored objects, in bytes of JSON. The changes that the server remembers have a
    /// limit of the same size, counted separately.
    pub memory: usize,
    /// Largest number of open watches. The request for a further watch is answered with 429.
    pub watches: usize,
    /// Largest number of clients that are connected to an [`ApiServer`](super::ApiServer) at a time; each needs a file
    /// descriptor. At the limit, the server makes room for each new connection: it closes the oldest connection whose
    /// client has shown no credential yet. If every client has shown a credential, the server answers up to 64 further
    /// clients with 429, and closes any further connection without an answer.
    pub clients: usize,
    /// Interval between two removals of old requests. A value below a second counts as a second. In a cluster the
    /// interval is an hour.
    pub cleaning_interval: Duration,
    /// Time for which the server stores a request with a certificate, denial or failure, counted from the latest update
    /// of its conditions. If the certificate has expired, the next cleaning removes the request, even before this time
    /// has passed.
    pub keep_ended: Duration,
    /// Time for which the server stores a request without certificate, denial or failure, counted from its creation.
    pub keep_pending: Duration,
    /// Time for which the server stores a pod certificate request, counted from its creation. In a cluster the interval
    /// between two removals of such requests is five minutes.
    pub keep_pod_requests: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            minor: 36,
            approval: Approval::Auto,
            approve_serving: ServingApproval::Never,
            other_signers: false,
            allow_short: true,
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            backdate: None,
            signing_delay: Duration::ZERO,
            capacity: 16384,
            history: 4096,
            memory: 64 << 20,
            watches: 1536,
            clients: 2048,
            cleaning_interval: Duration::from_secs(60),
            keep_ended: Duration::from_secs(3600),
            keep_pending: Duration::from_secs(24 * 3600),
            keep_pod_requests: Duration::from_secs(15 * 60),
        }
    }
}

impl Options {
    /// The lifetime that a certificate gets if its request has this `expirationSeconds`.
    pub(super) fn lifetime(&self, expiration_seconds: Option<i32>) -> Duration {
        let Some(seconds) = expiration_seconds else { return self.signing_duration };
        let shortest = if self.allow_short { Duration::from_secs(1) } else { Duration::from_secs(600) };
        let wanted = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if wanted > self.signing_duration { self.signing_duration } else { wanted.max(shortest) }
    }
}

/// An API server without sockets and clocks. The caller passes requests with the time, and gets answers.
///
/// Stores certificate signing requests and pod certificate requests, and approves and signs them. Also stores trust
/// bundles, pods, service accounts and nodes, and answers two kinds of requests that `kubectl` sends: for discovery
/// documents, and for reviews of the user's own rights. The server is for development, demonstrations and tests: all state
/// is in memory, and memory is bounded.
#[derive(Debug)]
pub struct Api {
    pub(super) options: Options,
    pub(super) authority: Authority,
    pub(super) random: Random,
    tokens: Tokens,
    store: Store,
    /// Stored objects that the controllers have to handle: for each, the time to handle it and its key.
    work: BTreeSet<(UnixTime, Key)>,
    pub(super) next_cleaning: UnixTime,
    faults: Faults,
    pod_signers: PodSigners,
    /// Each open watch holds a clone. The number of open watches is the reference count minus one, since the `Api`
    /// holds one reference itself.
    pub(super) watches: Arc<()>,
}

impl Api {
    /// An empty server that signs with `authority`.
    pub fn new(options: Options, authority: Authority, random: Random) -> Self {
        Self {
            store: Store::new(options.clone()),
            options,
            authority,
            random,
            tokens: Tokens::default(),
            work: BTreeSet::new(),
            next_cleaning: UnixTime::default(),
            faults: Faults::default(),
            pod_signers: PodSigners::default(),
            watches: Arc::default(),
        }
    }

    /// Accepts a bearer token for `user`. For a bootstrap token, pass the whole text `<id>.<secret>`.
    pub fn add_token(&mut self, token: &str, user: User) {
        self.tokens.add(token, user);
    }

    /// Increments the resource version, as the write of another resource (a Lease, an Event) does in a cluster.
    pub fn write_elsewhere(&mut self) {
        self.store.write_elsewhere();
    }

    /// Forgets all changes, as the watch cache of a cluster's API server does at a restart: the cache begins at the
    /// current version. A watch from an older version gets an `ERROR` event with 410.
    pub fn restart_watch_cache(&mut self) {
        self.store.forget_changes();
    }

    /// The certificate authority that signs now.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Signs with `new` from now on. Certificates of earlier authorities stay trusted until
    /// [`Api::forget_previous_authorities`], so that clients can rotate their certificates in the meantime.
    ///
    /// A [`Tls`](super::Tls) and roots that were built before this call do not change. Build a new `Tls` for new
    /// sessions, and give clients the new [roots](Authority::roots).
    pub fn rotate_authority(&mut self, new: Authority) {
        let before = std::mem::replace(&mut self.authority, new);
        self.authority.trust_predecessor(before);
    }

    /// Ends a rotation of the authority: removes the previous authorities from its [roots](Authority::roots). Build a
    /// new [`Tls`](super::Tls), so that new sessions refuse certificates of the previous authorities. Open sessions
    /// continue.
    pub fn forget_previous_authorities(&mut self) {
        self.authority.forget_predecessors();
    }

    /// The resource version, which rises with every write of any resource. After a rise, [`Api::next_event`] may return
    /// further events.
    pub fn version(&self) -> u64 {
        self.store.version()
    }

    /// Answers a request, and then runs the controllers that are due ([`Api::tick`]).
    pub fn handle(&mut self, request: &ApiRequest, now: UnixTime) -> Answer {
        let answer = self.answer(request, now).unwrap_or_else(Answer::Response);
        // After the answer: as in a cluster, the answer to a create shows neither approval nor certificate.
        self.tick(now);
        answer
    }

    /// The next event of a watch.
    pub fn next_event(&self, watcher: &mut Watcher, now: UnixTime) -> Next {
        watcher.next(&self.store, now)
    }

    /// Releases objects of a version that the store has forgotten, so that a slow reader does not keep them in memory.
    /// A watch that is so far behind drops its unsent initial objects; its next and last event is an `ERROR` with 410.
    /// For a list of such a version, returns true: the list cannot continue, and the caller drops the list.
    pub(super) fn release_forgotten(&self, stream: &mut Stream) -> bool {
        match stream {
            Stream::List(listing) => listing.is_forgotten(&self.store),
            Stream::Watch(watcher) => {
                watcher.release_forgotten(&self.store);
                false
            }
        }
    }

    /// True if the request shows a valid client certificate or a known token.
    pub(super) fn authenticates(&self, request: &ApiRequest, now: UnixTime) -> bool {
        self.tokens.authenticate(request, now).is_some()
    }

    fn answer(&mut self, request: &ApiRequest, now: UnixTime) -> Result<Answer, Response> {
        // Decode after the split: an escaped slash is part of a name.
        let path: Vec<Cow<'_, str>> = request.path().split('/').map(decode).collect();
        let path: Vec<&str> = path.iter().map(|segment| &**segment).filter(|segment| !segment.is_empty()).collect();
        // Before authentication: as in a cluster, health needs no credential.
        if let (&Method::GET, ["healthz" | "livez" | "readyz", ..]) = (&request.method, path.as_slice()) {
            return Ok(Answer::Response(Response::text(200, "ok")));
        }
        let user = self.tokens.authenticate(request, now).ok_or_else(status::unauthorized)?;
        if request.impersonates {
            return Err(access::no_impersonation(&user));
        }
        if let Some(target) = Resource::in_path(&path) {
            // The release that is imitated may lack the version of the group.
            let served = self.options.minor >= target.0.since();
            return if served { self.collection(request, &user, target, now) } else { Err(status::no_such_path()) };
        }
        match path.as_slice() {
            ["apis", status::GROUP, "v1", ..] if self.options.minor < discovery::V1_SINCE => {
                Err(status::no_such_path())
            }
            ["apis", group, _, plural, ..] if Resource::named(group, plural).is_some() => {
                // Earlier versions are gone since Kubernetes 1.22.
                Err(status::no_such_resource())
            }
            ["apis", group @ ("authentication.k8s.io" | "authorization.k8s.io"), "v1", resource] => {
                if request.method != Method::POST {
                    return Err(status::method_not_allowed());
                }
                let wanted = Attributes { verb: "create", group, resource, ..Attributes::default() };
                access::authorize(&user, &wanted)?;
                review::answer(request, &user, resource, now).map(Answer::Response)
            }
            path => {
                let joined = format!("/{}", path.join("/"));
                access::authorize_path(&user, &request.method.as_str().to_ascii_lowercase(), &joined)?;
                if request.method != Method::GET {
                    return Err(status::method_not_allowed());
                }
                discovery::answer(path, &request.accept, self.options.minor)
                    .map(Answer::Response)
                    .ok_or_else(status::no_such_resource)
            }
        }
    }
}

/// Decodes percent-encoding. Replaces invalid UTF-8, and keeps a `%` that begins no escape.
fn decode(segment: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy()
}

/// The list or watch that a session is sending. The session takes the next piece of the list, or the next event of the
/// watch, only while few bytes are unsent.
pub(crate) enum Stream {
    List(Listing),
    Watch(Watcher),
}

/// Formats a time as the API does: RFC 3339, in whole seconds.
fn rfc3339(at: UnixTime) -> String {
    UnixTime::from_secs(at.as_secs()).to_string()
}
