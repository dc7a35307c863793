//! Parses one member of a certificate list.

mod location;
mod pod;
mod trust_bundle;

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum as _;
use perennial::{Policy, Template, printable};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::objects::{CLIENT_SIGNER, KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER, USAGES};
use perennial_pki::{KeyAlgorithm, Usage};

use super::member::{Asker, CommandLine, Member, PidFile, Pod, Reaction, Signal};
use super::reader::{Section, nearest};
use crate::cli::{self, KeyType};
use crate::spans;
use crate::timing;
use location::location;
pub(super) use trust_bundle::trust_bundle;

/// The keys of a member that `defaults` may have, too.
pub(super) const SHARED: [&str; 13] = [
    "signer",
    "organizations",
    "usages",
    "keyType",
    "keyEncoding",
    "lifetime",
    "issuerCAFile",
    "acceptExtraRights",
    "timing",
    "identity",
    "clusterKubeconfig",
    "access",
    "node",
];
/// The keys that only a member may have.
const OWN: [&str; 11] = [
    "name",
    "commonName",
    "dnsNames",
    "ipAddresses",
    "uris",
    "store",
    "replaceForeign",
    "after",
    "onRotated",
    "pod",
    "userAnnotations",
];
/// The time limit of a command without `timeout`: that of `run --on-rotated`.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Parses a member. `None` if a value that every member needs is missing or wrong; all errors are reported.
pub(super) fn member(section: &Section<'_>) -> Option<Member> {
    let known: Vec<&str> = OWN.into_iter().chain(SHARED).collect();
    section.allow(&known);
    section.require("name", "kube-proxy");
    section.require("signer", CLIENT_SIGNER);
    section.require("store", "{bundle: {file: /etc/kube-proxy/proxy.pem}}");
    section.require("identity", "{certificate: node}");
    let name = section.parse("name", label);
    let signer = section.parse("signer", cli::signer_name);
    let lifetime = section.parse("lifetime", cli::requested_lifetime);
    let is_of_pod = section.field("pod").is_some();
    let (template, usages, required_usages) = match is_of_pod {
        // The signer chooses the names and the usages.
        true => (Some(Template::default()), None, Vec::new()),
        false => {
            pod::check_absent(section);
            let usages = section.parse_all("usages", usage);
            let required = required_usages(section, usages.as_deref(), signer.as_deref());
            (template(section, signer.as_deref()), usages, required)
        }
    };
    let pod = if is_of_pod { pod::pod(section, signer.as_deref(), lifetime).map(Some) } else { Some(None) };
    if let (Some(usages), Some(signer)) = (&usages, &signer)
        && !required_usages.is_empty()
        && let Err(why) = CsrSigner::check_usages(signer, usages)
    {
        section.fault("usages", why);
    }
    let key_type = key_type(section);
    let issuer_ca_file = section.parse("issuerCAFile", absolute);
    let location = location(section, private_name(name.as_deref(), pod.as_ref()), key_type, issuer_ca_file.as_ref());
    let policy = policy(section, if is_of_pod { lifetime.or(Some(Pod::LIFETIME)) } else { lifetime });
    let asker = section.section("identity").as_ref().and_then(asker);
    if matches!(asker, Some(Asker::Own { .. }))
        && let Some(signer) = &signer
        && !is_identity(signer, &required_usages)
    {
        let why = format!(
            "this certificate cannot request its own successor: API servers do not accept certificates of {signer} \
             with these usages as an identity; name another certificate with `identity: {{certificate: NAME}}`"
        );
        section.fault("identity", why);
    }
    let cluster = section.parse("clusterKubeconfig", absolute);
    let cluster = cluster.or_else(|| match &asker {
        Some(Asker::Own { bootstrap_kubeconfig: path } | Asker::Kubeconfig(path)) => Some(path.clone()),
        Some(Asker::Member(_)) => Some(PathBuf::new()),
        Some(Asker::TokenFile(_)) if section.field("clusterKubeconfig").is_none() => {
            let why = "a token names no API server; add `clusterKubeconfig`, a kubeconfig with its URL and CA";
            section.fault("identity", why);
            None
        }
        Some(Asker::TokenFile(_)) | None => None,
    });
    Some(Member {
        lifetime,
        issuer_ca_file,
        accepts_extra_rights: is_of_pod || section.parse("acceptExtraRights", flag).unwrap_or_default(),
        after: section.parse_all("after", label).unwrap_or_default(),
        reaction: section.section("onRotated").map(|section| reaction(&section)).unwrap_or_default(),
        name: name?,
        signer: signer?,
        pod: pod?,
        template: template?,
        usages,
        required_usages,
        key_type: key_type?,
        policy: policy?,
        asker: asker?,
        cluster_kubeconfig: cluster?,
        location: location?,
    })
}

/// The path of the private copy of a certificate in a volume, relative to the directory of all private copies. Another pod
/// has another copy, also if it takes the place of a pod in the list.
fn private_name(name: Option<&str>, pod: Option<&Option<Pod>>) -> Option<PathBuf> {
    match pod? {
        Some(pod) => Some(Path::new(&pod.identity.uid).join(name?)),
        None => Some(PathBuf::from(name?)),
    }
}

/// True if API servers accept a certificate of this signer as an identity.
pub(super) fn is_identity(signer: &str, usages: &[Usage]) -> bool {
    [KUBELET_CLIENT_SIGNER, CLIENT_SIGNER].contains(&signer) && usages.contains(&Usage::ClientAuth)
}

/// Checks an RFC 1123 label.
fn label(text: &str) -> Result<String, &'static str> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = text.starts_with('-') || text.ends_with('-');
    match !text.is_empty() && text.len() <= 63 && text.bytes().all(fits) && !ends {
        true => Ok(text.to_owned()),
        false => Err("expected a DNS label: at most 63 lower-case letters, digits and '-', for example kube-proxy"),
    }
}

fn usage(text: &str) -> Result<String, String> {
    if USAGES.contains(&text) {
        return Ok(text.to_owned());
    }
    let meant = nearest(text, &USAGES).unwrap_or("client auth");
    Err(format!("unknown usage `{}` of a CSR; did you mean `{meant}`?", printable(text)))
}

/// Parses an absolute path without `..`: the process of a service has another working directory than its author.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !is_plain || text.contains('\0') || path.file_name().is_none() {
        return Err(format!(
            "expected an absolute path without `..`, for example /etc/kubernetes/pki, found `{}`",
            printable(text)
        ));
    }
    // Without double and final slashes, so that equal paths are equal texts.
    Ok(path.components().collect())
}

fn flag(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false"),
    }
}

fn template(section: &Section<'_>, signer: Option<&str>) -> Option<Template> {
    let check = |template: Template| template.check();
    let errors = section.errors();
    let common_name = section.parse("commonName", |text| check(Template::new(text)).map(|()| text.to_owned()));
    let organizations = section.parse_all("organizations", |text| {
        check(Template::default().with_organizations([text])).map(|()| text.to_owned())
    });
    let dns_names = section
        .parse_all("dnsNames", |text| check(Template::default().with_dns_names([text])).map(|()| text.to_owned()));
    let uris = section.parse_all("uris", |text| check(Template::default().with_uris([text])).map(|()| text.to_owned()));
    let ip_addresses = section.parse_all("ipAddresses", |text| {
        text.parse::<std::net::IpAddr>()
            .map_err(|_| format!("`{}` is no IP address; write one like 10.0.0.7 or fd00::7", printable(text)))
    });
    let template = Template::new(common_name.unwrap_or_default())
        .with_organizations(organizations.unwrap_or_default())
        .with_dns_names(dns_names.unwrap_or_default())
        .with_uris(uris.unwrap_or_default())
        .with_ip_addresses(ip_addresses.unwrap_or_default());
    if ["commonName", "organizations", "dnsNames", "uris", "ipAddresses"].iter().all(|key| section.field(key).is_none())
    {
        section.fault_here("no names: add `commonName`, `dnsNames`, `ipAddresses` or `uris`");
        return None;
    }
    // The rules for all names together would repeat an error of one name.
    if section.errors() != errors {
        return None;
    }
    let checked = template.check().map_err(|error| error.to_string());
    let checked = checked.and_then(|()| CsrSigner::check_names(signer.unwrap_or_default(), &template));
    checked.map_err(|why| section.fault_here(why)).ok()?;
    Some(template)
}

fn required_usages(section: &Section<'_>, usages: Option<&[String]>, signer: Option<&str>) -> Vec<Usage> {
    let Some(usages) = usages else {
        return vec![if signer == Some(KUBELET_SERVING_SIGNER) { Usage::ServerAuth } else { Usage::ClientAuth }];
    };
    let is_given = |usage: &Usage| usages.contains(&usage.to_string());
    let given: Vec<_> = [Usage::ClientAuth, Usage::ServerAuth].into_iter().filter(is_given).collect();
    if given.is_empty() {
        let why = "one usage must be 'client auth' or 'server auth': these are the usages that perennial verifies in \
                   an issued certificate";
        section.fault("usages", why);
    }
    given
}

fn key_type(section: &Section<'_>) -> Option<KeyAlgorithm> {
    const WHAT: &str = "expected p256, p384, p521, ed25519, rsa or rsa4096";
    if section.field("keyType").is_none() {
        return Some(KeyAlgorithm::default());
    }
    let parse = |text: &str| KeyType::from_str(text, false).map_err(|_| WHAT);
    let algorithm = section.parse("keyType", parse)?.algorithm();
    if !algorithm.can_be_generated() {
        let why = format!("this build cannot generate {algorithm} keys: it lacks the feature aws-lc-rs; use p256");
        section.fault("keyType", why);
        return None;
    }
    Some(algorithm)
}

/// The policy of `timing`. Without `timing`, the policy that fits the requested lifetime.
fn policy(section: &Section<'_>, lifetime: Option<Duration>) -> Option<Policy> {
    if section.field("timing").is_none() {
        return Some(lifetime.map_or_else(Policy::default, Policy::for_lifetime));
    }
    let timing = section.section("timing")?;
    timing.allow(&timing::Values::KEYS);
    let (mut values, mut is_good) = (timing::Values::default(), true);
    for key in timing::Values::KEYS {
        let Some(text) = timing.text(key) else { continue };
        if let Err(why) = values.set(key, &text) {
            timing.fault(key, why);
            is_good = false;
        }
    }
    let policy = values.policy();
    let shortest = policy.shortest_lifetime();
    if let Some(lifetime) = lifetime.filter(|lifetime| *lifetime < shortest && is_good) {
        let (lifetime, shortest) = (spans::words(lifetime), spans::words(shortest));
        let why = format!(
            "a certificate of {lifetime} could expire with this timing, which is for {shortest} and longer; remove \
             `timing` for a timing that fits, or request a longer `lifetime`"
        );
        section.fault("timing", why);
    }
    is_good.then_some(policy)
}

fn asker(section: &Section<'_>) -> Option<Asker> {
    asker_of(section, &["bootstrapKubeconfig", "certificate", "kubeconfig", "tokenFile"])
}

/// Parses an identity of one of these kinds.
fn asker_of(section: &Section<'_>, kinds: &[&'static str]) -> Option<Asker> {
    Some(match section.choice(kinds)? {
        "bootstrapKubeconfig" => Asker::Own { bootstrap_kubeconfig: section.parse("bootstrapKubeconfig", absolute)? },
        "certificate" => Asker::Member(section.parse("certificate", label)?),
        "kubeconfig" => Asker::Kubeconfig(section.parse("kubeconfig", absolute)?),
        _ => Asker::TokenFile(section.parse("tokenFile", absolute)?),
    })
}

fn reaction(section: &Section<'_>) -> Reaction {
    section.allow(&["run", "timeout", "pidFile", "signal"]);
    let argument = |text: &str| match text.contains('\0') {
        true => Err("expected text without NUL"),
        false => Ok(text.to_owned()),
    };
    let arguments = section.parse_all("run", argument);
    if arguments.as_ref().is_some_and(|arguments| arguments.first().is_none_or(String::is_empty)) {
        section.fault("run", "expected a command and its arguments, for example [systemctl, reload, nginx]");
    }
    let timeout = section.parse("timeout", spans::parse);
    let path = section.parse("pidFile", absolute);
    let signal = section.parse("signal", |text| match text.strip_prefix("SIG").unwrap_or(text) {
        "HUP" => Ok(Signal::Hup),
        "USR1" => Ok(Signal::Usr1),
        "USR2" => Ok(Signal::Usr2),
        _ => Err("expected HUP, USR1 or USR2"),
    });
    for (key, other) in [("timeout", "run"), ("signal", "pidFile")] {
        if section.has(key) && !section.has(other) {
            section.fault(key, format!("has no effect without `{other}`; add `{other}`, or remove this key"));
        }
    }
    if !section.has("run") && !section.has("pidFile") {
        section.fault_here("add `run`, a command, or `pidFile`, the file with the ID of a process to signal");
    }
    let arguments = arguments.filter(|arguments| !arguments.is_empty());
    Reaction {
        command: arguments.map(|arguments| CommandLine { arguments, timeout: timeout.unwrap_or(COMMAND_LIMIT) }),
        signal: path.map(|path| PidFile { path, signal: signal.unwrap_or(Signal::Hup) }),
    }
}
