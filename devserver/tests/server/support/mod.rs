//! Helpers of these tests: a server in memory, its users, and requests to it.

pub(crate) mod pod;
pub(crate) mod text;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::{Template, UnixTime};
use perennial_dev::{Answer, Api, ApiRequest, Approval, Authority, Method, Next, Options, Random, User, Watcher};
use perennial_pki::{Chain, KeyAlgorithm, KeyPair, certificate_request};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// The time at which each test begins: 2027-01-15T08:00:00Z.
pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
pub(crate) const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const CLIENT_USAGES: [&str; 2] = ["digital signature", "client auth"];
pub(crate) const SERVER_USAGES: [&str; 2] = ["digital signature", "server auth"];
pub(crate) const TOKEN: &str = "abcdef.0123456789abcdef";
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Options of a server that leaves approval to a person.
pub(crate) fn manual() -> Options {
    Options { approval: Approval::Manual, ..Options::default() }
}

pub(crate) fn after(seconds: u64) -> UnixTime {
    NOW.after(Duration::from_secs(seconds))
}

/// The user whose credential a test sends with a request.
#[derive(Clone)]
pub(crate) enum Role {
    Admin,
    Bootstrap,
    Node(&'static str),
    Other(User),
    Nobody,
}

pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) now: UnixTime,
}

impl Server {
    pub(crate) fn new(options: Options) -> Self {
        let mut random = Random::from_seed([42; 32]);
        let authority = Authority::generate(&mut random, NOW, 10 * YEAR).unwrap();
        Self::with_authority(options, authority, random)
    }

    pub(crate) fn with_authority(options: Options, authority: Authority, random: Random) -> Self {
        let mut api = Api::new(options, authority, random);
        api.add_token(TOKEN, User::bootstrap("abcdef"));
        Self { api, now: NOW }
    }

    pub(crate) fn answer(&mut self, user: &Role, mut request: ApiRequest) -> Answer {
        match user {
            Role::Admin => request.peer = Some(Arc::new(User::new("kubernetes-admin", ["system:masters"]))),
            Role::Bootstrap => request.authorization = Some(Zeroizing::new(format!("Bearer {TOKEN}"))),
            Role::Node(node) => {
                request.peer = Some(Arc::new(User::new(format!("system:node:{node}"), ["system:nodes"])));
            }
            Role::Other(identity) => request.peer = Some(Arc::new(identity.clone())),
            Role::Nobody => {}
        }
        match self.api.handle(&request, self.now) {
            Answer::List(listing) => Answer::Response(listing.into_response()),
            answer => answer,
        }
    }

    /// Sends a request as `user`. Returns the HTTP status and the body of the answer.
    pub(crate) fn send(&mut self, user: &Role, request: ApiRequest) -> (u16, Value) {
        match self.answer(user, request) {
            Answer::Response(response) => (response.status, serde_json::from_slice(&response.body).unwrap_or_default()),
            answer => panic!("no response: {answer:?}"),
        }
    }

    pub(crate) fn get(&mut self, user: &Role, target: &str) -> (u16, Value) {
        self.send(user, ApiRequest::new(Method::GET, target))
    }

    pub(crate) fn list(&mut self, user: &Role, query: &str) -> (u16, Value) {
        self.get(user, &format!("{COLLECTION}?{query}"))
    }

    pub(crate) fn create(&mut self, user: &Role, object: &Value) -> (u16, Value) {
        self.send(user, with_body(Method::POST, COLLECTION, object))
    }

    pub(crate) fn put(&mut self, user: &Role, path: &str, object: &Value) -> (u16, Value) {
        self.send(user, with_body(Method::PUT, &format!("{COLLECTION}/{path}"), object))
    }

    pub(crate) fn delete(&mut self, user: &Role, name: &str) -> (u16, Value) {
        self.send(user, ApiRequest::new(Method::DELETE, format!("{COLLECTION}/{name}")))
    }

    /// The stored request object of this name.
    pub(crate) fn object(&mut self, name: &str) -> Value {
        let (status, object) = self.get(&Role::Admin, &format!("{COLLECTION}/{name}"));
        assert_eq!(status, 200, "{object}");
        object
    }

    /// Approves a request as `kubectl certificate approve` does.
    pub(crate) fn approve(&mut self, name: &str) -> (u16, Value) {
        let object = with_condition(self.object(name), "Approved");
        self.put(&Role::Admin, &format!("{name}/approval"), &object)
    }

    /// The chain issued for the request `name`; `None` if there is none yet.
    pub(crate) fn chain(&mut self, name: &str) -> Option<Chain> {
        let object = self.object(name);
        let pem = STANDARD.decode(object["status"]["certificate"].as_str()?).unwrap();
        Some(Chain::from_pem(&pem).unwrap())
    }

    pub(crate) fn watch(&mut self, query: &str) -> Watcher {
        match self.answer(&Role::Admin, ApiRequest::new(Method::GET, format!("{COLLECTION}?watch=true&{query}"))) {
            Answer::Watch(watcher) => watcher,
            answer => panic!("no watch: {answer:?}"),
        }
    }

    /// All events that a watch has to send now, as `TYPE name` or `ERROR code`, and whether the watch has ended.
    pub(crate) fn drain(&self, watcher: &mut Watcher) -> (Vec<String>, bool) {
        let mut events = Vec::new();
        loop {
            match self.api.next_event(watcher, self.now) {
                Next::Event(line) => {
                    assert_eq!(line.last(), Some(&b'\n'));
                    let event: Value = serde_json::from_slice(&line).unwrap();
                    let what = &event["object"]["metadata"]["name"];
                    let what = what.as_str().map_or_else(|| event["object"]["code"].to_string(), Into::into);
                    events.push(format!("{} {what}", event["type"].as_str().unwrap()));
                }
                Next::Pending => return (events, false),
                Next::End => return (events, true),
            }
        }
    }
}

pub(crate) fn with_body(method: Method, target: &str, object: &Value) -> ApiRequest {
    let mut request = ApiRequest::new(method, target);
    request.content_type = "application/json".into();
    request.body = serde_json::to_vec(object).unwrap();
    request
}

/// A request object for this signer with the CSR `pem`.
pub(crate) fn csr(name: &str, signer: &str, usages: &[&str], pem: &str) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": { "name": name },
        "spec": { "request": STANDARD.encode(pem), "signerName": signer, "usages": usages },
    })
}

pub(crate) fn request(template: &Template, key: &KeyPair) -> String {
    certificate_request(template, key).unwrap().pem
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

/// A kubelet's request object for a client certificate, with a new key.
pub(crate) fn node_csr(name: &str, node: &str) -> Value {
    let pem = request(&Template::node(node), &key());
    csr(name, KUBELET_CLIENT, &CLIENT_USAGES, &pem)
}

/// A server that stores the pending request `a`, and the object of that request.
pub(crate) fn pending() -> (Server, Value) {
    let mut server = Server::new(manual());
    let (status, created) = server.create(&Role::Bootstrap, &node_csr("a", "one"));
    assert_eq!(status, 201, "{created}");
    (server, created)
}

pub(crate) fn with_condition(mut object: Value, kind: &str) -> Value {
    let condition = json!({ "type": kind, "status": "True", "reason": "Test", "message": "by the test" });
    match object["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => object["status"]["conditions"] = json!([condition]),
    }
    object
}

/// Reason and message of the condition of this type in a request object; `None` without such a condition.
pub(crate) fn condition(object: &Value, kind: &str) -> Option<(String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some((found["reason"].as_str()?.into(), found["message"].as_str()?.into()))
}

pub(crate) fn message(answer: &(u16, Value)) -> &str {
    answer.1["message"].as_str().unwrap_or_default()
}
