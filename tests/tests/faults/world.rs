//! A node and a server in one loop: bytes go from one to the other, and time jumps to where something happens.

use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Now, Policy, RequestId, Template, UnixTime};
use perennial_dev::{Api, Authority, Break, Options, Random, ServingApproval, Session, Tls, faults::Plan};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::cluster::Cluster;
use perennial_pki::{Credential, Usage};
use perennial_rotation::{
    Authentication, Command, Conversation, Exchange, Identity, Input, IoEvent, IoRequest, Issued, Rotation, SignError,
    SignerConversation, Start, Token,
};
use perennial_tests::recording::Recording;
use rustls::pki_types::UnixTime as TlsTime;
use rustls::time_provider::TimeProvider;

use perennial_tests::loopback::TOKEN;

/// 2027-01-15T08:00:00Z
const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
/// How long certificates live: a submission that keeps failing leaves hours before the end.
const LIFETIME: Duration = Duration::from_secs(40 * 3600);

/// The server's certificates and those of clients are valid throughout: one moment is as good as any.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<TlsTime> {
        Some(TlsTime::since_unix_epoch(Duration::from_secs(START.as_secs() as u64)))
    }
}

pub(crate) struct World {
    millis: u64,
    pub(crate) api: Api,
    tls: Tls,
    pub(crate) rotation: Rotation,
    recording: Recording,
    live: Option<Live>,
    /// Submissions so far.
    pub(crate) submissions: u64,
    /// The most HTTP requests a submission took.
    pub(crate) most_requests: usize,
    /// What the last submission told about the server: whether it is healthy, if anything.
    pub(crate) healthy: Option<bool>,
    /// When each request was made, and each connection that was made to fail, since the faults were set.
    pub(crate) asked: Vec<Instant>,
    /// Moments looked at: many more than things that happen would mean that something spins.
    pub(crate) steps: u32,
    /// Moments at which no valid certificate was served, once there was one.
    pub(crate) dropped: u32,
}

struct Live {
    id: RequestId,
    exchange: Box<dyn SignerConversation>,
    session: Option<Session>,
    until: Instant,
    /// Requests in the journal of the server when the exchange began.
    journal: usize,
    /// Connections that the server refused: each is one request that the journal lacks.
    refused: usize,
}

impl World {
    /// A node that has its first certificate.
    pub(crate) fn new(serving: bool) -> Self {
        Self::living(serving, LIFETIME)
    }

    /// The same, whose certificates live so long.
    pub(crate) fn living(serving: bool, lifetime: Duration) -> Self {
        Self::at(
            serving,
            Options { approve_serving: ServingApproval::Any, signing_duration: lifetime, ..Options::default() },
        )
    }

    /// A node that has its first certificate from a server with these options.
    pub(crate) fn at(serving: bool, options: Options) -> Self {
        let mut random = Random::from_seed([7; 32]);
        let authority = Authority::generate(&mut random, START, 100 * LIFETIME).unwrap();
        let (roots, span) = (authority.roots().unwrap(), 50 * LIFETIME);
        let shown = authority.server_credential(&["localhost"], &[], &mut random, START, span).unwrap();
        let node = "system:node:worker-1";
        let node = authority.client_credential(node, &["system:nodes"], &mut random, START, span).unwrap();
        let tls = Tls::with_clock(&authority, &shown, Arc::new(Clock)).unwrap();
        let mut api = Api::new(options, authority, random);
        api.add_token(TOKEN, perennial_dev::User::bootstrap("abcdef"));
        let cluster = Cluster::from_url("https://localhost:6443").unwrap().with_roots(roots.clone());

        let mut signer = kubelet(Arc::new(cluster), serving.then_some(node));
        signer.profile.issuers = Some(roots);
        let start = Start {
            policy: Arc::new(Policy::default()),
            signer: Some(Arc::new(signer)),
            template: Some(Arc::new(template(serving))),
            common_name: None,
            credential: None,
            waiting: None,
            unwritten: false,
            rotate_now: false,
            pending: None,
        };
        let now = Now { instant: Instant::default(), unix: START };
        let mut rotation = Rotation::new(start, now);
        let recording = Recording::of(&mut rotation, now);
        let mut world = Self {
            millis: 0,
            api,
            tls,
            rotation,
            recording,
            live: None,
            submissions: 0,
            most_requests: 0,
            healthy: None,
            asked: Vec::new(),
            steps: 0,
            dropped: 0,
        };
        assert!(world.run_until(HOUR, |world| world.issued() == 1), "{:?}", world.rotation.snapshot(world.now()));
        world
    }

    pub(crate) fn now(&self) -> Now {
        Now { instant: Instant::from_millis(self.millis), unix: START.after(Duration::from_millis(self.millis)) }
    }

    /// What law of the machine was broken by now, if any was.
    pub(crate) fn lawful(&self) -> Result<(), String> {
        self.recording.check()
    }

    pub(crate) fn issued(&self) -> u64 {
        self.rotation.snapshot(self.now()).issued
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.rotation.machine().last_failure()
    }

    pub(crate) fn set_faults(&mut self, plan: Plan) {
        self.api.set_faults(plan, self.now().unix);
        self.healthy = None;
        self.asked.clear();
    }

    /// Goes on until `done`, for so long at most; whether it came to that.
    pub(crate) fn run_until(&mut self, span: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now().instant.after(span);
        while !done(self) {
            if self.now().instant >= end {
                return false;
            }
            self.advance(end);
        }
        true
    }

    /// Does what is due, and goes to the moment when something is next.
    fn advance(&mut self, end: Instant) {
        let now = self.now();
        self.steps += 1;
        assert!(self.steps < 50_000, "something spins: {:?}", self.rotation.snapshot(now));
        self.api.tick(now.unix);
        if self.rotation.deadline().is_some_and(|due| due <= now.instant) {
            self.tell(Input::Tick);
        }
        let before = self.issued();
        let finished = self.converse();
        self.asked.resize(self.api.journal().count(), now.instant);
        if let Some((id, result)) = finished {
            self.healthy = result.as_ref().map_or_else(|error| error.server_healthy(), |_| Some(true));
            self.tell(Input::Finished { id, result });
        }
        let held = self.rotation.snapshot(now).credential;
        let valid = |held: &Arc<Credential>| !held.chain().certificate().validity.expired(now.unix);
        self.dropped += u32::from(before > 0 && !held.is_some_and(|held| valid(&held)));

        let controllers = now.instant.after(self.api.deadline().since(now.unix));
        let live = self.live.as_ref().map(|live| live.until);
        let next = [self.rotation.deadline(), live, Some(controllers)].into_iter().flatten().min().unwrap_or(end);
        self.millis =
            next.min(end).as_millis().max(self.millis + u64::from(live.is_none_or(|live| live > now.instant)));
    }

    fn tell(&mut self, input: Input) {
        let now = self.now();
        for command in self.rotation.handle(input, now) {
            match command {
                Command::Drive { id, exchange } => {
                    let Exchange::Conversation(exchange) = exchange else { panic!("{exchange:?}") };
                    assert!(self.live.is_none(), "one request at a time");
                    self.submissions += 1;
                    let journal = self.api.journal().count();
                    self.live = Some(Live { id, exchange, session: None, until: now.instant, journal, refused: 0 });
                }
                Command::Drop { id } => drop(self.live.take_if(|live| live.id == id)),
                Command::Write { id, .. } => self.tell(Input::Written { id, result: Ok(()) }),
                Command::Save { .. } => self.tell(Input::Saved { result: Ok(()) }),
                Command::SetTimer(_) => {}
            }
        }
    }

    /// Carries bytes until somebody has to wait. What came of the exchange, if it is over.
    fn converse(&mut self) -> Option<(RequestId, Result<Issued, SignError>)> {
        let now = self.now();
        let Self { live, api, tls, .. } = self;
        let Live { id, exchange, session, until, journal, refused } = live.as_mut()?;
        let mut bytes = Vec::new();
        let mut turns = 0_u32;
        let result = loop {
            turns += 1;
            assert!(turns < 50_000, "the exchange spins: {exchange:?}");
            bytes.clear();
            let input = match (exchange.poll(now), session.as_mut()) {
                (IoRequest::Done(result), _) => break result,
                (IoRequest::Disconnect, _) => {
                    *session = None;
                    continue;
                }
                (IoRequest::Wait { until: end }, _) | (IoRequest::Receive { until: end }, None)
                    if end > now.instant =>
                {
                    *until = end;
                    return None;
                }
                (IoRequest::Wait { .. } | IoRequest::Receive { .. } | IoRequest::Transmit { .. }, None) => {
                    IoEvent::Ended
                }
                (IoRequest::Wait { .. }, Some(_)) => continue,
                (IoRequest::Connect { .. }, _) => {
                    let opened = session.insert(Session::new(tls, now.instant).unwrap());
                    opened.drive(api, now);
                    match opened.breaks() {
                        Some(Break::Refused) => {
                            *refused += 1;
                            IoEvent::Failed("connection refused".into())
                        }
                        Some(Break::Reset | Break::Midway) | None => IoEvent::Connected,
                    }
                }
                (IoRequest::Transmit { bytes: sent, .. }, Some(open)) => {
                    if open.breaks().is_none() {
                        open.receive(&sent);
                        open.drive(api, now);
                        continue;
                    }
                    IoEvent::Failed("connection reset by peer".into())
                }
                (IoRequest::Receive { until: end }, Some(open)) => {
                    open.drive(api, now);
                    open.transmit(&mut bytes, now.instant);
                    if !bytes.is_empty() {
                        IoEvent::Received(&bytes)
                    } else if open.breaks() == Some(Break::Midway) {
                        IoEvent::Failed("connection reset by peer".into())
                    } else if open.is_closed() || open.breaks().is_some() {
                        IoEvent::Ended
                    } else if end > now.instant {
                        *until = end.min(open.deadline());
                        return None;
                    } else {
                        continue;
                    }
                }
            };
            exchange.handle(input, now);
        };
        let (id, requests) = (*id, api.journal().count().saturating_sub(*journal) + *refused);
        self.most_requests = self.most_requests.max(requests);
        self.live = None;
        Some((id, result))
    }
}

/// A kubelet's signer: of its client certificate, or, asked with `node`, of its serving certificate.
pub(crate) fn kubelet(cluster: Arc<Cluster>, node: Option<Credential>) -> CsrSigner {
    let token = Token::new(TOKEN).unwrap();
    let mut signer = CsrSigner::kubelet_client(cluster, Some(Arc::new(move || Ok(Identity::Token(token.clone())))));
    if let Some(node) = node.map(Arc::new) {
        signer.signer_name = "kubernetes.io/kubelet-serving".into();
        signer.profile.usages = vec![Usage::ServerAuth];
        signer.authentication = Authentication::Other(Arc::new(move || Ok(Identity::Certificate(node.clone()))));
    }
    signer
}

pub(crate) fn template(serving: bool) -> Template {
    let template = Template::node("worker-1");
    if serving { template.with_dns_names(["worker-1.example"]) } else { template }
}
