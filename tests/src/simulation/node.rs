//! A node: a rotation with its connection to the server and its disk, in a process that may crash.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use perennial::{Failure, Instant, Now, RequestId, Template};
use perennial_dev::Decision;
use perennial_dev::faults::Plan;
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::client_go_healthy;
use perennial_pki::Credential;
use perennial_rotation::{Command, Input, Issued, Record, Rotation, SignError, Signer, Start, Stored};

use super::{InFlight, Member, SECOND, Server};
use crate::laws::Verdict;
use crate::recording::Recording;

/// The disk of a node: all that survives a crash.
#[derive(Debug, Default)]
pub struct Durable {
    /// The pending record.
    pub record: Option<Vec<u8>>,
    /// The current pair on disk.
    pub credential: Option<Arc<Credential>>,
    /// True if pending records cannot be written.
    pub is_full: bool,
    /// True if pairs cannot be written.
    pub link_is_taken: bool,
}

/// A node whose process may crash, and its API server.
pub struct Node {
    /// The node's API server.
    pub server: Server,
    /// The node's disk.
    pub disk: Durable,
    /// The rotation of the running process.
    pub rotation: Rotation,
    /// The trace of the rotation, through all crashes.
    pub recording: Recording,
    signer: Arc<dyn Signer>,
    /// How long a signer that is a closure takes for a request.
    pub closure_takes: Duration,
    template: Option<Arc<Template>>,
    submission: Option<Submission>,
    /// The number of crash points that the process still passes before it crashes at the next one; `None`: no crash.
    /// The beginning of a command is a crash point, and so is its end. A crash sets the number to
    /// [`period`](Self::period).
    pub crash_after: Option<u32>,
    /// The value that a crash gives [`crash_after`](Self::crash_after); `None`: no further crash.
    pub period: Option<u32>,
    /// The number of crashes so far.
    pub crashes: u32,
    /// The number of attempts to save the pending record.
    pub saves: u32,
    /// The number of submissions so far.
    pub submissions: u64,
    /// The number of attempts to write a certificate.
    pub written: u32,
    /// The greatest number of HTTP requests and faulty connections that one submission made. A refused connection
    /// counts twice, since both the server and the exchange count it.
    pub most_requests: usize,
    /// The value that client-go's `ServerHealthy` would have now; `None` if no submission since the faults were set
    /// would have changed the value.
    pub healthy: Option<bool>,
    /// The time of each entry in the server's journal since the faults were set: each HTTP request, and each connection
    /// to which the plan gave a fault.
    pub request_times: Vec<Instant>,
    /// The number of steps after which the served certificate was missing or expired, although the rotation had got a
    /// certificate before the step.
    pub dropped: u32,
    /// The number of steps so far. Too many steps panic, since the node then spins.
    steps: u32,
}

struct Submission {
    id: RequestId,
    in_flight: InFlight,
    /// The number of entries in the server's journal when the exchange began.
    journal: usize,
}

impl Node {
    /// A node that authenticates with a token, and holds this credential.
    pub fn new(server: Server, credential: Option<Arc<Credential>>) -> Self {
        Self::with(server, credential, |_| {})
    }

    /// A node that authenticates with a token, and holds this credential. `adjust` changes the node's signer before the
    /// start.
    pub fn with(server: Server, credential: Option<Arc<Credential>>, adjust: impl FnOnce(&mut CsrSigner)) -> Self {
        let mut signer = server.signer();
        adjust(&mut signer);
        Self::with_signer(server, signer, Template::node("worker-1"), credential)
    }

    /// A node that requests `template` from this signer, and holds this credential. If the signer is a closure, the
    /// server only provides the clocks.
    pub fn with_signer(
        server: Server,
        signer: impl Signer + 'static,
        template: Template,
        credential: Option<Arc<Credential>>,
    ) -> Self {
        let disk = Durable { credential, ..Durable::default() };
        let (signer, template): (Arc<dyn Signer>, _) = (Arc::new(signer), Some(Arc::new(template)));
        let start = start(&disk, &signer, template.clone());
        let mut rotation = Rotation::new(start, server.now());
        let recording = Recording::of(&mut rotation, server.now());
        Self {
            server,
            disk,
            rotation,
            recording,
            signer,
            closure_takes: Duration::ZERO,
            template,
            submission: None,
            crash_after: None,
            period: None,
            crashes: 0,
            saves: 0,
            submissions: 0,
            written: 0,
            most_requests: 0,
            healthy: None,
            request_times: Vec::new(),
            dropped: 0,
            steps: 0,
        }
    }

    /// Checks the trace so far by the laws of the machine.
    ///
    /// # Errors
    /// The law that is broken.
    pub fn lawful(&self) -> Verdict {
        self.recording.check()
    }

    /// The number of certificates issued so far.
    pub fn issued(&self) -> u64 {
        self.rotation.snapshot(self.now()).issued
    }

    /// The reason why the last attempt failed; `None` if it did not fail.
    pub fn failure(&self) -> Option<Failure> {
        self.rotation.machine().last_failure()
    }

    /// The serial number of the certificate that the node presents now; `None` if it presents none.
    pub fn presents(&self) -> Option<String> {
        self.rotation.machine().certificate_at(self.now().unix)?;
        self.rotation.snapshot(self.now()).credential.map(|held| held.chain().serial().to_owned())
    }

    /// The names of the request objects on the server.
    pub fn objects(&self) -> BTreeSet<String> {
        self.server.api.requests().map(|csr| csr.metadata.name.clone()).collect()
    }

    /// The pending record on disk.
    pub fn record(&self) -> Record {
        Record::decode(self.disk.record.as_deref().unwrap()).unwrap()
    }

    /// Sets the faults of the server from now on. Clears `healthy` and `request_times`.
    pub fn set_faults(&mut self, plan: Plan) {
        self.server.api.set_faults(plan, self.server.now().unix);
        self.healthy = None;
        self.request_times.clear();
    }

    /// Approves or denies every request object that has no condition yet.
    pub fn decide(&mut self, decision: Decision) {
        let now = self.server.now().unix;
        let open = self.server.api.requests().filter(|csr| csr.status.conditions.is_empty());
        let open: Vec<String> = open.map(|csr| csr.metadata.name.clone()).collect();
        open.iter().for_each(|name| self.server.api.decide(name, decision, "because", now).unwrap());
    }

    /// Ends the process in the middle of its work. A second later, a new process starts from what the disk holds.
    pub fn crash(&mut self) {
        self.crashes += 1;
        self.server.pass(SECOND);
        self.restart();
    }

    /// Restarts the process without a template.
    pub fn restart_without_template(&mut self) {
        self.template = None;
        self.restart();
    }

    fn restart(&mut self) {
        let start = start(&self.disk, &self.signer, self.template.clone());
        self.rotation = Rotation::new(start, self.server.now());
        self.recording.continue_with(&mut self.rotation, self.server.now());
        self.submission = None;
    }

    /// Runs for this time, and checks the laws.
    pub fn run(&mut self, span: Duration) {
        self.run_until(span, |_| false);
        self.act();
        self.lawful().unwrap_or_else(|broken| panic!("{broken}"));
    }

    /// Updates `most_requests` at the end of a submission.
    fn count(&mut self, submission: &Submission) {
        let requests =
            self.server.api.journal().count().saturating_sub(submission.journal) + submission.in_flight.refused();
        self.most_requests = self.most_requests.max(requests);
    }

    /// Updates `most_requests` and `healthy` after the end of an exchange. Returns the input that reports the result of the
    /// exchange to the rotation.
    fn finish(&mut self, submission: &Submission, result: Result<Issued, SignError>) -> Input {
        self.count(submission);
        let healthy = result.as_ref().map_or_else(|error| error.health.map(client_go_healthy), |_| Some(true));
        self.healthy = healthy.or(self.healthy);
        Input::Finished { id: submission.id, result }
    }

    /// Hands an input to the rotation, and carries out its commands.
    pub fn handle(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.now();
            let commands = self.rotation.handle(input, now);
            self.recording.note(&mut self.rotation, now);
            for command in commands {
                if self.crashes_here() {
                    return;
                }
                inputs.extend(self.carry_out(command));
                if self.crashes_here() {
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self, command: Command) -> Option<Input> {
        match command {
            Command::Drive { id, exchange } => {
                assert!(self.submission.is_none(), "one request at a time");
                self.submissions += 1;
                let journal = self.server.api.journal().count();
                let in_flight = InFlight::of(exchange, self.now(), self.closure_takes);
                let mut submission = Submission { id, in_flight, journal };
                // An exchange may end before the next command is carried out.
                if let Some(result) = submission.in_flight.carry(&mut self.server) {
                    return Some(self.finish(&submission, result));
                }
                self.submission = Some(submission);
                None
            }
            Command::Drop { id } => {
                let dropped = self.submission.take_if(|submission| submission.id == id);
                dropped.iter().for_each(|submission| self.count(submission));
                None
            }
            Command::Key { id, call } => Some(Input::Keyed { id, keyed: call.run() }),
            Command::Write { id, credential, .. } => {
                self.written += 1;
                if self.disk.link_is_taken {
                    return Some(Input::Written { id, result: Err("not a link".to_owned()) });
                }
                self.disk.credential = Some(credential);
                Some(Input::Written { id, result: Ok(()) })
            }
            Command::Save { record } => {
                self.saves += 1;
                if self.disk.is_full {
                    return Some(Input::Saved { result: Err("no space left".to_owned()) });
                }
                self.disk.record = Some(record.encode().to_vec());
                Some(Input::Saved { result: Ok(()) })
            }
        }
    }

    /// Counts down to the next crash, and crashes once the count is zero. Returns whether the process crashed.
    fn crashes_here(&mut self) -> bool {
        let Some(left) = &mut self.crash_after else { return false };
        if *left > 0 {
            *left -= 1;
            return false;
        }
        self.crash_after = self.period;
        self.crash();
        true
    }
}

impl Member for Node {
    fn now(&self) -> Now {
        self.server.now()
    }

    /// The earliest time at which the rotation, the request in flight or a controller of the server is due. At least a
    /// millisecond from now, since `act` has already done all that is due now.
    fn next_at(&self) -> Option<Instant> {
        let now = self.now();
        let controllers = now.instant.after(self.server.api.deadline().since(now.unix));
        let submission = self.submission.as_ref().and_then(|submission| submission.in_flight.until());
        let next = [self.rotation.deadline(), submission, Some(controllers)].into_iter().flatten().min();
        next.map(|at| at.max(now.instant.after(Duration::from_millis(1))))
    }

    fn pass(&mut self, span: Duration) {
        self.server.pass(span);
    }

    fn act(&mut self) {
        let now = self.now();
        self.steps += 1;
        assert!(self.steps < 50_000, "something spins: {:?}", self.rotation.snapshot(now));
        self.server.api.tick(now.unix);
        if self.rotation.deadline().is_some_and(|due| due <= now.instant) {
            self.handle(Input::Tick);
        }
        let before = self.issued();
        while let Some(mut submission) = self.submission.take() {
            match submission.in_flight.carry(&mut self.server) {
                Some(result) => {
                    let finished = self.finish(&submission, result);
                    self.handle(finished);
                }
                None => {
                    self.submission = Some(submission);
                    break;
                }
            }
        }
        self.request_times.resize(self.server.api.journal().count(), now.instant);
        let held = self.rotation.snapshot(now).credential;
        let valid = held.is_some_and(|held| !held.chain().certificate().validity.expired(now.unix));
        self.dropped += u32::from(before > 0 && !valid);
    }
}

/// The [`Start`] of a rotation from what the disk holds, with this signer and template.
fn start(disk: &Durable, signer: &Arc<dyn Signer>, template: Option<Arc<Template>>) -> Start {
    let pending = disk.record.as_deref().map(|record| Record::decode(record).unwrap());
    Start {
        signer: Some(signer.clone()),
        template,
        stored: Stored { credential: disk.credential.clone(), ..Stored::default() },
        pending,
        ..Start::default()
    }
}
