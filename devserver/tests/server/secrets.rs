//! `Debug` of public types shows none of the secrets that they contain.

use std::path::Path;
use std::sync::Arc;

use crate::support::{DAY, NOW, TOKEN, YEAR};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial::{Instant, Now, Policy, Template};
use perennial_dev::{Api, ApiRequest, Authority, Method, Options, Random, Tls};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubeconfig::Kubeconfig;
use perennial_rotation::{Command, Identity, Input, Rotation, Start, Stored, Token};
use zeroize::Zeroizing;

/// Parts of a private key that must not be shown: in PEM, as hexadecimal digits, and as a list of numbers.
fn forms(pem: &str) -> Vec<String> {
    let lines: Vec<&str> = pem.lines().filter(|line| !line.contains("-----")).collect();
    let der = STANDARD.decode(lines.concat()).unwrap();
    // The middle of the private key proper (PKCS#8, P-256).
    let part = &der[40..48];
    let list = format!("{part:?}");
    let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![lines[0].to_owned(), hex, list.trim_matches(['[', ']']).to_owned()]
}

#[test]
fn debug_of_public_types_hides_keys_and_tokens() {
    let mut random = Random::from_seed([9; 32]);
    let authority = Authority::generate(&mut random, NOW, YEAR).unwrap();
    let held = authority.client_credential("system:node:one", &["system:nodes"], &mut random, NOW, DAY).unwrap();
    let held = Arc::new(held);
    let authority_pem = authority.to_pem();
    let authority_key = &authority_pem[authority_pem.find("-----BEGIN PRIVATE KEY").unwrap()..];
    let mut secrets = [forms(authority_key), forms(&held.key().to_pem())].concat();
    secrets.extend(["0123456789".into(), "PRIVATE KEY".into()]);

    let token = Token::new(TOKEN).unwrap();
    let cluster = Arc::new(Cluster::from_url("https://localhost").unwrap().with_roots(authority.roots().unwrap()));
    let signer = CsrSigner::kubelet_client(cluster.clone(), Some(Arc::new(token.clone())));
    let now = Now { instant: Instant::default(), unix: NOW.after(DAY) };
    let start = Start {
        policy: Arc::new(Policy::default()),
        signer: Some(Arc::new(signer)),
        template: Some(Arc::new(Template::node("one"))),
        stored: Stored { credential: Some(held.clone()), waiting: Some(held.clone()), is_misplaced: false },
        ..Start::default()
    };
    let mut shown = vec![format!("{start:?}")];
    let mut rotation = Rotation::new(start, now);
    let commands = rotation.handle(Input::Tick, now);
    assert!(commands.iter().any(|command| matches!(command, Command::Drive { .. })), "{commands:?}");
    shown.extend([format!("{commands:?}"), format!("{rotation:?}"), format!("{:?}", rotation.snapshot(now))]);

    let text = format!(
        "users: [{{name: u, user: {{token: {TOKEN}}}}}]\nclusters: [{{name: c, cluster: {{server: 'https://x'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
    );
    let kubeconfig = Kubeconfig::parse(Path::new("kubeconfig"), &text).unwrap();
    let selected = kubeconfig.select(None).unwrap();
    let credentials = selected.identity(&mut |_| panic!("no file")).unwrap();
    shown.extend([format!("{kubeconfig:?}"), format!("{selected:?}"), format!("{credentials:?}")]);

    for identity in [Identity::Token(token), Identity::Certificate(held.clone())] {
        let call = Call::new(Request::get("/"), cluster.clone(), identity.clone(), Limits::default());
        shown.extend([format!("{identity:?}"), format!("{call:?}")]);
    }

    let serving = authority.server_credential(&["localhost"], &[], &mut random, NOW, DAY).unwrap();
    let tls = Tls::new(&authority, &serving).unwrap();
    let mut request = ApiRequest::new(Method::GET, "/");
    request.authorization = Some(Zeroizing::new(format!("Bearer {TOKEN}")));
    shown.extend([format!("{authority:?}"), format!("{held:?}"), format!("{tls:?}"), format!("{request:?}")]);
    let mut api = Api::new(Options::default(), authority, random);
    api.add_token(TOKEN, perennial_dev::User::bootstrap("abcdef"));
    let answer = api.handle(&request, NOW);
    shown.extend([format!("{answer:?}"), format!("{api:?}")]);

    for shown in shown {
        for secret in &secrets {
            assert!(!shown.contains(secret.as_str()), "{secret} in {shown}");
        }
    }
}
