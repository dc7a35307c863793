//! Cases of kubelet's own tests: `kubelet_test.go`, `transport_test.go` and `bootstrap/bootstrap_test.go` in
//! `pkg/kubelet/certificate`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perennial::Template;
use perennial_dev::{Approval, Options, Random};
use perennial_kubernetes::addresses::{AddressType, Addresses, NodeAddress};
use perennial_pki::{Credential, interim};
use perennial_rotation::{Authentication, Directory, FileCredential, Input, News, Progress, clock};

use perennial_tests::simulation as rig;

use super::{Row, different, same};
use perennial_tests::loopback::{self, Runtime};
use perennial_tests::replacement::write_at_rest;

const SOURCE: &str = "kubelet_test.go";
const TRANSPORT: &str = "transport_test.go";
const BOOTSTRAP: &str = "bootstrap_test.go";

/// An IP address that `sorted` adds if a row has none, since a template needs an IP address. `sorted` removes the
/// address from its result again; no row has this address.
const MORE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 255));

/// The DNS names and the IP addresses in the template of a node that has these addresses, and how many of the addresses
/// are unusable.
fn sorted(addresses: &[(AddressType, &str)]) -> (Vec<String>, Vec<IpAddr>, usize) {
    let address = |(kind, address): &(AddressType, &str)| NodeAddress { kind: *kind, address: (*address).to_owned() };
    let addresses = Addresses::of(addresses.iter().map(address));
    // Without an IP address there is no template: one more address makes one.
    let more = [NodeAddress { kind: InternalIp, address: MORE.to_string() }];
    let all = addresses.clone().template("node").unwrap_or_else(|| Addresses::of(more).template("node").unwrap());
    let ip_addresses = all.ip_addresses().filter(|ip| *ip != MORE).collect();
    (all.dns_names().map(Into::into).collect(), ip_addresses, addresses.unusable().len())
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn asked_for(addresses: &[(AddressType, &str)]) -> Option<Template> {
    let address = |(kind, address): &(AddressType, &str)| NodeAddress { kind: *kind, address: (*address).to_owned() };
    Addresses::of(addresses.iter().map(address)).template("node")
}

use AddressType::{ExternalIp, Hostname, InternalIp};

const CLOSES_NOTHING: &str = "cutting connections is their owner's business, who is notified of each rotation";
const LATER: &str = "a kubeconfig that names a certificate is written once there is one";

const NOTHING: &str = "no template, so no request";

macro_rules! template_row {
    ($case:literal, $does:expr, $check:expr) => {
        same(SOURCE, concat!("TestNewCertificateManagerConfigGetTemplate/", $case), $does, $check)
    };
}

pub(crate) const ROWS: &[Row] = &[
    same(SOURCE, "TestAddressesToHostnamesAndIPs/empty", "nothing", || assert_eq!(sorted(&[]), (vec![], vec![], 0))),
    same(SOURCE, "TestAddressesToHostnamesAndIPs/ignore empty values", "nothing", || {
        assert_eq!(sorted(&[(Hostname, "")]), (vec![], vec![], 0));
    }),
    different(
        SOURCE,
        "TestAddressesToHostnamesAndIPs/ignore invalid IPs",
        "they are omitted and reported",
        "an operator must be able to see why a certificate is not for every address",
        || assert_eq!(sorted(&[(InternalIp, "1.2"), (ExternalIp, "3.4")]), (vec![], vec![], 2)),
    ),
    same(SOURCE, "TestAddressesToHostnamesAndIPs/dedupe values", "each once", || {
        let (names, ip_addresses, _) = sorted(&[
            (Hostname, "hostname"),
            (AddressType::ExternalDns, "hostname"),
            (AddressType::InternalDns, "hostname"),
            (InternalIp, "1.1.1.1"),
            (ExternalIp, "1.1.1.1"),
        ]);
        assert_eq!((names, ip_addresses), (vec!["hostname".into()], ips(&["1.1.1.1"])));
    }),
    same(
        SOURCE,
        "TestAddressesToHostnamesAndIPs/order values",
        "in a fixed order, independent of the order of the input",
        || {
            let names = ["hostname-2", "hostname-1", "hostname-3"].map(|name| (Hostname, name));
            let numbers = ["2.2.2.2", "1.1.1.1", "3.3.3.3"].map(|ip| (InternalIp, ip));
            let (names, ip_addresses, _) = sorted(&[names, numbers].concat());
            assert_eq!(names, ["hostname-1", "hostname-2", "hostname-3"]);
            assert_eq!(ip_addresses, ips(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]));
        },
    ),
    same(
        SOURCE,
        "TestAddressesToHostnamesAndIPs/handle IP and DNS hostnames",
        "IP addresses as addresses, names as names",
        || {
            let (names, ip_addresses, _) = sorted(&[(Hostname, "hostname"), (Hostname, "1.1.1.1")]);
            assert_eq!((names, ip_addresses), (vec!["hostname".into()], ips(&["1.1.1.1"])));
        },
    ),
    template_row!("node addresses or hostnames and gate enabled", NOTHING, || assert_eq!(asked_for(&[]), None)),
    template_row!("node addresses or hostnames and gate disabled", NOTHING, || assert_eq!(asked_for(&[]), None)),
    different(
        SOURCE,
        "TestNewCertificateManagerConfigGetTemplate/only hostnames and gate enabled",
        NOTHING,
        "the gate AllowDNSOnlyNodeCSR is deprecated and off, and perennial has no such gate",
        || assert_eq!(asked_for(&[(Hostname, "fake-node")]), None),
    ),
    template_row!("only hostnames and gate disabled", NOTHING, || assert_eq!(
        asked_for(&[(Hostname, "fake-node")]),
        None
    )),
    template_row!("only IP addresses and gate enabled", "a template with the addresses", only_addresses),
    template_row!("only IP addresses and gate disabled", "a template with the addresses", only_addresses),
    template_row!("IP addresses and hostnames and gate enabled", "a template with both", addresses_and_names),
    template_row!("IP addresses and hostnames and gate disabled", "a template with both", addresses_and_names),
    same(
        SOURCE,
        "TestKubeletServerCertificateFromFiles/remove and create",
        "a replaced pair is served; if the files are gone, the last pair stays",
        || {
            let directory = tempfile::tempdir().unwrap();
            let [first, second] = [pair(), pair()];
            write(directory.path(), &first);
            let files = open(directory.path());
            assert!(Arc::ptr_eq(&files.credential(), &files.credential()), "without a change it is the same one");
            fs::remove_file(directory.path().join("tls.crt")).unwrap();
            assert_eq!(files.credential().chain(), first.chain());
            write(directory.path(), &second);
            assert_eq!(files.credential().chain(), second.chain());
        },
    ),
    same(SOURCE, "TestKubeletServerCertificateFromFiles/rename cert dir", "the pair in the new directory", || {
        let parent = tempfile::tempdir().unwrap();
        let [first, second] = [pair(), pair()];
        for (name, pair) in [("in-use", &first), ("next", &second)] {
            fs::create_dir(parent.path().join(name)).unwrap();
            write(&parent.path().join(name), pair);
        }
        let files = open(&parent.path().join("in-use"));
        fs::rename(parent.path().join("in-use"), parent.path().join("before")).unwrap();
        assert_eq!(files.credential().chain(), first.chain());
        fs::rename(parent.path().join("next"), parent.path().join("in-use")).unwrap();
        assert_eq!(files.credential().chain(), second.chain());
    }),
    different(
        TRANSPORT,
        "TestRotateShutsDownConnections",
        "the next request presents the new certificate; other connections continue, and their owners are notified",
        CLOSES_NOTHING,
        || {
            let server = loopback::serve(Approval::Auto);
            let handle = loopback::node(Runtime::Std, &server.cluster).start();
            let first = loopback::issued(&handle, 1);
            let mut rotations = handle.rotations();
            handle.rotate_now();
            let second = loopback::issued(&handle, 2);
            let rotated = rotations.try_recv().unwrap();
            assert_eq!((rotated.old.unwrap().chain(), rotated.new.chain()), (first.chain(), second.chain()));
            assert_eq!(server.user_of(&handle.credential().unwrap()).1, loopback::digest(&second));
            handle.shutdown().wait();
        },
    ),
    same(
        "certificate_manager_test.go",
        "TestRotationLogsDuration",
        "observers get the replaced certificate and the time, which give its age; the first certificate replaces none",
        || {
            let mut server = rig::Server::new(Options::default());
            let old = server.node_credential(2 * rig::HOUR, rig::DAY);
            let began = old.chain().certificate().validity.not_before();
            for (credential, expected) in [(Some(old), Some(began)), (None, None)] {
                let mut node = rig::Node::new(rig::Server::new(Options::default()), credential);
                node.handle(Input::RotateNow);
                node.run(rig::MINUTE);
                let issued = node.recording.news().iter().filter_map(|(at, news)| match news {
                    News::Issued { replaced, .. } => {
                        Some((replaced.as_ref().map(|old| old.validity.not_before()), at.unix))
                    }
                    _ => None,
                });
                let [(before, at)] = issued.collect::<Vec<_>>()[..] else { panic!("it rotates once") };
                assert_eq!(before, expected);
                // Issued two hours before, and backdated by five minutes.
                let age = before.map(|began| (at.since(began) - 5 * rig::MINUTE).as_secs() / 60);
                assert_eq!(age, expected.map(|_| 120));
            }
        },
    ),
    different(
        TRANSPORT,
        "exitAfter",
        "the process continues: an expired certificate is replaced with the bootstrap credential as soon as possible",
        "a library must not end the process; client-go has to, because it chooses its credential only at the start",
        || {
            let mut server = rig::Server::new(Options::default());
            let expired = server.node_credential(2 * rig::DAY, rig::DAY);
            server.faults("{ match: { method: POST }, fault: { answer: { status: 403 } } }");
            let mut node = rig::Node::with(server, Some(expired), |signer| {
                if let Authentication::Other(token) = &signer.authentication {
                    signer.authentication = Authentication::Own { bootstrap: Some(Arc::clone(token)) };
                }
            });
            node.run(10 * rig::MINUTE);
            assert_eq!((node.presents(), node.healthy), (None, Some(true)), "so long, and client-go has exited");
            node.server.faults("");
            node.run(rig::HOUR);
            assert!(node.presents().is_some());
        },
    ),
    same(
        BOOTSTRAP,
        "TestLoadClientConfig/bootstrapPath is empty",
        "requests authenticate with the stored certificate only",
        || {
            let (asked_as, _) = asked_as(Held::Valid, false);
            assert_eq!(asked_as, "system:node:worker-1");
        },
    ),
    same(
        BOOTSTRAP,
        "TestLoadClientConfig/bootstrap path is set and kubeconfig is valid",
        "requests authenticate with the stored certificate; the bootstrap credential is ignored",
        || {
            let (asked_as, _) = asked_as(Held::Valid, true);
            assert_eq!(asked_as, "system:node:worker-1");
        },
    ),
    different(
        BOOTSTRAP,
        "TestLoadClientConfig/bootstrap path is set and kubeconfig is not valid",
        "the first request authenticates with the bootstrap credential, the next with the issued certificate",
        LATER,
        || {
            for held in [Held::Expired, Held::Nothing] {
                let (first, second) = asked_as(held, true);
                assert_eq!((first.as_str(), second.as_str()), ("system:bootstrap:abcdef", "system:node:worker-1"));
            }
        },
    ),
];

fn only_addresses() {
    let template = Template::node("node").with_ip_addresses(ips(&["192.168.1.1"]));
    assert_eq!(asked_for(&[(InternalIp, "192.168.1.1")]), Some(template));
}

fn addresses_and_names() {
    let template = Template::node("node").with_ip_addresses(ips(&["192.168.1.1"])).with_dns_names(["fake-node"]);
    assert_eq!(asked_for(&[(Hostname, "fake-node"), (InternalIp, "192.168.1.1")]), Some(template));
}

/// The certificate in the credential directory when the node starts.
#[derive(PartialEq)]
enum Held {
    Nothing,
    Expired,
    Valid,
}

/// Starts a node with the certificate `held`, and with a bootstrap token if `has_bootstrap`. Returns the user name that
/// authenticated the node's first request, and the one that authenticated its second.
fn asked_as(held: Held, has_bootstrap: bool) -> (String, String) {
    let server = loopback::serve(Approval::Auto);
    let directory = tempfile::tempdir().unwrap();
    match held {
        Held::Nothing => {}
        Held::Expired => {
            let (now, day) = (clock::now().unix, rig::DAY);
            let mut random = Random::from_os().unwrap();
            let name = "system:node:worker-1";
            let issued = now.before(2 * day);
            let pair = loopback::new_authority().client_credential(name, &["system:nodes"], &mut random, issued, day);
            Directory::open(directory.path(), "kubelet-client").unwrap().write(&pair.unwrap(), issued).unwrap();
        }
        Held::Valid => {
            let handle = loopback::node(Runtime::Std, &server.cluster).stored_in(directory.path()).start();
            loopback::issued(&handle, 1);
            handle.shutdown().wait();
        }
    }
    let before = server.csr_names().len();
    let mut node = loopback::node(Runtime::Std, &server.cluster).stored_in(directory.path());
    if !has_bootstrap {
        let signer = node.signer.take().unwrap();
        node.signer = Some(perennial_kubernetes::CsrSigner::kubelet_client(signer.cluster, None));
    }
    let handle = node.start();
    if held == Held::Valid {
        handle.rotate_now();
    }
    loopback::issued(&handle, 1);
    handle.rotate_now();
    loopback::issued(&handle, 2);
    assert!(!matches!(handle.snapshot().progress, Some(Progress::Retrying { .. })));
    handle.shutdown().wait();
    let asked: Vec<(String, String)> = server.handle.with_api(|api, _| {
        let order = |csr: &perennial_kubernetes::objects::CertificateSigningRequest| {
            csr.metadata.resource_version.parse::<u64>().unwrap()
        };
        let mut all: Vec<_> =
            api.requests().map(|csr| (order(csr), csr.metadata.name.clone(), csr.spec.username.clone())).collect();
        all.sort();
        all.into_iter().map(|(_, name, user)| (name, user)).collect()
    });
    let new: Vec<String> = asked.into_iter().skip(before).map(|(_, user)| user).collect();
    let [first, second] = new.as_slice() else { panic!("{new:?}") };
    (first.clone(), second.clone())
}

fn pair() -> Credential {
    interim(&Template::new("server").with_dns_names(["localhost"]), clock::now().unix).unwrap()
}

fn write(directory: &Path, pair: &Credential) {
    write_at_rest(&directory.join("tls.key"), pair.key().to_pem().as_bytes());
    write_at_rest(&directory.join("tls.crt"), pair.chain().pem());
}

fn open(directory: &Path) -> FileCredential {
    FileCredential::open(directory.join("tls.crt"), directory.join("tls.key")).unwrap().every(Duration::ZERO)
}
