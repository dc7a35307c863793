//! Reads a certificate list: all members, and the rules between them.

use std::collections::HashMap;
use std::path::Path;

use super::conflicts;
use super::member::{Asker, List, ListedBundle, Member};
use super::parse;
use super::reader::{Context, Fault, Section};
use super::variables::Variables;
use super::yaml::{self, Place, Value};
use crate::failure::Failure;
use crate::files;

/// The one version of the format.
const VERSION: &str = "perennial/v1";
/// The longest list. A node keeps tens of certificates; the limit bounds the time of a reload.
const MOST: usize = 10_000;
/// The most trust bundles of a list: each takes a thread and a connection.
const MOST_BUNDLES: usize = 100;
/// Most unknown names for which the errors of a list name the one that was meant: each is compared with all names.
const MOST_GUESSES: usize = 20;

/// A member, and its mapping in the file for the errors of later checks.
pub(super) struct Placed<'a> {
    pub(super) section: Section<'a>,
    pub(super) member: Member,
}

impl List {
    /// Reads the list in a file. `variables` are the values of `${NAME}`. Changes nothing, and reads no other file but
    /// those of users and groups.
    ///
    /// # Errors
    /// [`Failure::Usage`] with all errors of the file, one per line, each with the file, line and column.
    pub(crate) fn read(path: &Path, variables: &Variables<'_>) -> Result<Self, Failure> {
        let file = path.display();
        let text = files::read_text(path)
            .map_err(|error| Failure::Usage(format!("cannot read the certificate list {file}: {error}")))?;
        Self::parse(path, &text, variables).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(|fault| format!("{file}:{fault}")).collect();
            let count = match lines.len() {
                1 => "one error".to_owned(),
                many => format!("{many} errors"),
            };
            Failure::Usage(format!("the certificate list has {count}; nothing was changed\n{}", lines.join("\n")))
        })
    }

    /// Parses a list.
    ///
    /// # Errors
    /// All errors of the text, in the order of the text; at least one.
    pub(super) fn parse(path: &Path, text: &str, variables: &Variables<'_>) -> Result<Self, Vec<Fault>> {
        let context = Context::new(variables);
        let document = yaml::parse(text)
            .map_err(|(at, why)| vec![Fault { at, member: String::new(), field: String::new(), why }])?;
        let placed = members(&context, &document);
        let bundles = trust_bundles(&context, &document, &placed);
        let (members, trust_bundles) = finish(&context, path, placed, bundles);
        let mut faults = context.faults.into_inner();
        faults.sort();
        faults.dedup();
        if faults.is_empty() { Ok(Self { path: path.to_owned(), members, trust_bundles }) } else { Err(faults) }
    }
}

/// Parses the members of the document. Leaves out members that lack a necessary value, whose errors are in `context`.
fn members<'a>(context: &'a Context<'a>, document: &'a yaml::Node) -> Vec<Placed<'a>> {
    let Some(root) = Section::new(context, document, "", String::new()) else { return Vec::new() };
    root.allow(&["apiVersion", "defaults", "certificates", "trustBundles"]);
    root.require("apiVersion", VERSION);
    root.parse("apiVersion", |text| match text {
        VERSION => Ok(()),
        _ => Err(format!("expected {VERSION}, the only version that this perennial reads")),
    });
    let defaults = root.section("defaults");
    if let Some(defaults) = &defaults {
        defaults.allow(&parse::SHARED);
    }
    let Some(field) = root.field("certificates") else {
        root.require("certificates", "[{name: kube-proxy, …}]");
        return Vec::new();
    };
    let Value::List(items) = &field.node.value else {
        root.fault("certificates", format!("expected a list of certificates, found {}", field.node.value.kind()));
        return Vec::new();
    };
    match items.len() {
        0 => root.fault("certificates", "the list is empty; add a certificate"),
        1..=MOST => {}
        _ => {
            root.fault("certificates", format!("more than {MOST} certificates; divide the list between processes"));
            return Vec::new();
        }
    }
    let (mut placed, mut names) = (Vec::new(), HashMap::<String, Place>::new());
    for (index, node) in items.iter().enumerate() {
        let number = format!("certificate {}", index + 1);
        let Some(section) = Section::new(context, node, &number, String::new()) else { continue };
        // Without its errors, which `member` reports.
        let name = section.known_text("name");
        let shown = name.as_ref().map_or(number, |name| format!("certificate {}", perennial::printable(name)));
        let section = section.named(shown).with_defaults(defaults.as_ref());
        if let Some(first) = name.and_then(|name| names.insert(name, section.place("name"))) {
            let why = format!("another certificate has this name, in line {}; rename one of them", first.line);
            section.fault("name", why);
        }
        placed.extend(parse::member(&section).map(|member| Placed { section, member }));
    }
    check_references(&placed, &names);
    placed
}

/// Parses the trust bundles of the document. Leaves out those with an error.
fn trust_bundles<'a>(
    context: &'a Context<'a>,
    document: &'a yaml::Node,
    placed: &[Placed<'_>],
) -> Vec<(Section<'a>, ListedBundle)> {
    // `members` has reported a document of another kind.
    let Value::Map(_) = &document.value else { return Vec::new() };
    let Some(root) = Section::new(context, document, "", String::new()) else { return Vec::new() };
    let Some(field) = root.field("trustBundles") else { return Vec::new() };
    let Value::List(items) = &field.node.value else {
        root.fault("trustBundles", format!("expected a list of trust bundles, found {}", field.node.value.kind()));
        return Vec::new();
    };
    if items.len() > MOST_BUNDLES {
        root.fault("trustBundles", format!("more than {MOST_BUNDLES} trust bundles; each takes a connection"));
        return Vec::new();
    }
    let mut bundles = Vec::new();
    for (index, node) in items.iter().enumerate() {
        let number = format!("trust bundle {}", index + 1);
        let Some(section) = Section::new(context, node, &number, String::new()) else { continue };
        let Some(bundle) = parse::trust_bundle(&section) else { continue };
        if let Asker::Member(name) = &bundle.asker {
            match placed.iter().find(|placed| placed.member.name == *name) {
                Some(Placed { member, .. }) if parse::is_identity(&member.signer, &member.required_usages) => {}
                Some(_) => section.fault("identity", format!("API servers do not accept the certificate {name} as an identity; name a client certificate of a signer of Kubernetes")),
                // A member with an error is not among these.
                None if context.faults.borrow().is_empty() => {
                    section.fault("identity", format!("no certificate of this list has the name {name}"));
                }
                None => {}
            }
        }
        bundles.push((section, bundle));
    }
    bundles
}

/// Reports references to members that do not exist, or whose certificate is no identity.
fn check_references(placed: &[Placed<'_>], names: &HashMap<String, Place>) {
    let known: Vec<&str> = names.keys().map(String::as_str).collect();
    let members: HashMap<&str, &Member> = placed.iter().map(|Placed { member, .. }| (&*member.name, member)).collect();
    let mut meant: HashMap<&str, Option<&str>> = HashMap::new();
    for Placed { section, member } in placed {
        let asker = match &member.asker {
            Asker::Member(name) => Some(("identity", name)),
            Asker::Own { .. } | Asker::Kubeconfig(_) | Asker::TokenFile(_) => None,
        };
        for (key, name) in asker.into_iter().chain(member.after.iter().map(|name| ("after", name))) {
            if *name == member.name {
                section.fault(key, "a certificate cannot wait for itself; name another one, or remove this");
            } else if !names.contains_key(name) {
                let is_one_of_few = meant.len() < MOST_GUESSES;
                let guess = || is_one_of_few.then(|| super::reader::nearest(name, &known)).flatten();
                let meant = *meant.entry(name).or_insert_with(guess);
                let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
                section.fault(key, format!("no certificate of this list has the name {name}{meant}"));
            }
        }
        if let Some(of) = asker.and_then(|(_, name)| members.get(name.as_str()))
            && of.name != member.name
            && !parse::is_identity(&of.signer, &of.required_usages)
        {
            let why = format!(
                "API servers do not accept the certificate {}, from the signer {}, as an identity; name a certificate \
                 with the usage 'client auth' from kubernetes.io/kube-apiserver-client or \
                 kubernetes.io/kube-apiserver-client-kubelet",
                of.name, of.signer
            );
            section.fault("identity", why);
        }
    }
}

/// Completes the members and trust bundles with what follows from other members, and checks the rules between them.
fn finish(
    context: &Context<'_>,
    path: &Path,
    mut placed: Vec<Placed<'_>>,
    mut bundles: Vec<(Section<'_>, ListedBundle)>,
) -> (Vec<Member>, Vec<ListedBundle>) {
    for Placed { member, .. } in &mut placed {
        if let Asker::Member(name) = &member.asker
            && !member.after.contains(name)
        {
            member.after.insert(0, name.clone());
        }
        let mut seen = Vec::new();
        member.after.retain(|name| {
            !seen.contains(name) && {
                seen.push(name.clone());
                true
            }
        });
    }
    conflicts::check_cycles(&placed);
    // A list with errors may have a cycle.
    if context.faults.borrow().is_empty() {
        inherit_clusters(&mut placed);
    }
    conflicts::check_files(path, &placed);
    conflicts::check_bundles(path, &placed, &mut bundles);
    for (_, bundle) in &mut bundles {
        if let Asker::Member(name) = &bundle.asker
            && bundle.cluster_kubeconfig.as_os_str().is_empty()
            && let Some(of) = placed.iter().find(|placed| placed.member.name == *name)
        {
            bundle.cluster_kubeconfig.clone_from(&of.member.cluster_kubeconfig);
        }
    }
    let bundles = bundles.into_iter().map(|(_, bundle)| bundle).collect();
    (placed.into_iter().map(|placed| placed.member).collect(), bundles)
}

/// Gives each member without `clusterKubeconfig` that of the member whose certificate authenticates its requests.
fn inherit_clusters(placed: &mut [Placed<'_>]) {
    let place = |(index, placed): (usize, &Placed<'_>)| (placed.member.name.clone(), index);
    let places: HashMap<String, usize> = placed.iter().enumerate().map(place).collect();
    for index in 0..placed.len() {
        let (mut at, mut heirs) = (index, Vec::new());
        // `check_cycles` has found no cycle.
        while placed[at].member.cluster_kubeconfig.as_os_str().is_empty() {
            let Asker::Member(name) = &placed[at].member.asker else { break };
            let Some(next) = places.get(name) else { break };
            heirs.push(at);
            at = *next;
        }
        let cluster = placed[at].member.cluster_kubeconfig.clone();
        // Also those on the way, so that no later member takes this way again.
        heirs.into_iter().for_each(|heir| placed[heir].member.cluster_kubeconfig.clone_from(&cluster));
    }
}
