//! `TestCluster`, as the tests of another program use it.

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use perennial::Template;
use perennial_dev::faults::Plan;
use perennial_dev::{Approval, Authority, ClusterSetup, Decision, Options, Random, TestCluster};
use perennial_pki::{Roots, Usage};
use perennial_rotation::{Handle, NotReady, Rotator, clock};
use perennial_tests::address;

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn node_gets_certificate_in_four_lines_of_code() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    let node = perennial_std::start(rotator)?;
    let credential = node.ready().within(BOUND)?;

    assert_eq!(credential.chain().certificate().common_name(), "system:node:worker-1");
    node.rotate_now();
    node.wait_for(|now| now.issued == 2).within(BOUND).unwrap();
    // The first request authenticates with the bootstrap token, the second with the first certificate.
    let mut users: Vec<String> = cluster.requests().into_iter().map(|request| request.spec.username).collect();
    users.sort();
    assert!(users[0].starts_with("system:bootstrap:"), "{users:?}");
    assert_eq!(users[1], "system:node:worker-1");
    Ok(())
}

#[test]
fn node_on_smol_gets_certificate_in_few_lines() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    let (node, rotation) = perennial_smol::start(rotator)?;
    let _task = smol::spawn(rotation);
    let credential = smol::block_on(node.ready())?;

    assert_eq!(credential.chain().certificate().common_name(), "system:node:worker-1");
    Ok(())
}

fn mesh(cluster: &TestCluster, template: Template) -> Handle {
    let signer = cluster.signer("example.com/mesh", Usage::ServerAuth);
    perennial_std::start(Rotator::new().template(template).signer(signer)).unwrap()
}

#[test]
fn custom_signer_issues_any_subject_but_system_masters() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start()?;
    let template = Template::new("web").with_organizations(["shop"]).with_dns_names(["web.example"]);
    let credential = mesh(&cluster, template.clone()).ready().within(BOUND)?;
    let facts = credential.chain().certificate();
    assert_eq!(*facts.names, template);
    assert_eq!(cluster.requests()[0].spec.signer_name, "example.com/mesh");

    let administrator = mesh(&cluster, Template::new("mallory").with_organizations(["system:masters"]));
    administrator.wait_for(|_| cluster.requests().len() == 2).within(BOUND).unwrap();
    let name = cluster.requests().into_iter().find(|request| request.status.certificate.is_empty());
    let name = name.unwrap().metadata.name;
    cluster.decide(&name, Decision::Approve)?;
    let error = administrator.wait_for(|now| now.last_error.is_some()).within(BOUND).unwrap();
    assert!(error.last_error.as_deref().unwrap().contains("system:masters"), "{error:?}");
    Ok(())
}

#[test]
fn default_options_issue_nothing_for_custom_signer_names() -> Result<(), Box<dyn Error>> {
    let cluster = TestCluster::start_with(ClusterSetup { options: Options::default(), ..ClusterSetup::default() })?;
    let waiting = mesh(&cluster, Template::new("web"));
    waiting.wait_for(|_| !cluster.requests().is_empty()).within(BOUND).unwrap();
    let [request] = cluster.requests().try_into().unwrap();
    assert!(request.status.conditions.is_empty());
    cluster.decide(&request.metadata.name, Decision::Approve)?;
    assert!(matches!(waiting.ready().within(Duration::from_millis(100)), Err(NotReady::TimedOut { .. })));
    Ok(())
}

#[test]
fn node_is_ready_after_faults_and_approval_by_test() -> Result<(), Box<dyn Error>> {
    let options = Options { approval: Approval::Manual, ..Options::default() };
    let cluster = TestCluster::start_with(ClusterSetup { options, ..ClusterSetup::default() })?;
    cluster.set_faults(Plan::parse("rules: [{ times: 2, fault: { answer: { status: 503 } } }]")?);
    let rotator = Rotator::new().template(Template::node("worker-1")).signer(cluster.node_signer());
    let node = perennial_std::start(rotator)?;
    node.wait_for(|_| !cluster.requests().is_empty()).within(BOUND).unwrap();
    cluster.decide(&cluster.requests()[0].metadata.name, Decision::Approve)?;
    node.ready().within(BOUND)?;
    Ok(())
}

#[test]
fn second_cluster_takes_over_ca_and_port_and_token_of_first() -> Result<(), Box<dyn Error>> {
    let mut random = Random::from_os()?;
    let authority = Authority::generate(&mut random, clock::now().unix, Duration::from_secs(86_400))?;
    let again = Authority::from_pem(&authority.to_pem())?;
    let address = address::unused();
    let listener = Some(TcpListener::bind(address)?);
    let setup = ClusterSetup { listener, authority: Some(authority), ..ClusterSetup::default() };
    let mut first = TestCluster::start_with(setup)?;
    let (url, token) = (first.url().to_owned(), first.token().clone());
    assert_eq!(url, format!("https://{address}"));
    let roots = first.ca_pem().to_vec();

    let other = Authority::generate(&mut random, clock::now().unix, Duration::from_secs(86_400))?;
    assert!(first.rotate_authority(other)?);
    // Earlier clients trust the CA of the server's certificate, new clients both CAs.
    assert!(Roots::from_pem(first.ca_pem()).is_ok() && first.ca_pem().starts_with(&roots));
    let node = perennial_std::start(Rotator::new().template(Template::node("worker-1")).signer(first.node_signer()))?;
    node.ready().within(BOUND)?;
    node.shutdown().wait();
    first.shutdown()?;

    let listener = Some(TcpListener::bind(address)?);
    let setup =
        ClusterSetup { listener, authority: Some(again), token: Some(token.clone()), ..ClusterSetup::default() };
    let second = TestCluster::start_with(setup)?;
    assert_eq!((second.url(), second.ca_pem(), second.token().reveal()), (&*url, &*roots, token.reveal()));
    Ok(())
}
