//! `perennial check`: checks a certificate list, and prints what a run with this list would do.

use perennial_kubernetes::{BundleSelection, CsrSigner, PodIdentity};
use perennial_rotation::volume::FileAccess;
use perennial_rotation::{FileLayout, FileOptions, Profile, Projection};
use serde_json::{Value, json};

use crate::bundle_file::BundleFile;
use crate::certificates::{self, Asker, List, ListedBundle, Location, Member, Pod, VolumeFiles, Volumes};
use crate::cli;
use crate::failure::Failure;
use crate::report::{all_names, columns, json_line, print};
use crate::spans::words;

/// Runs `perennial check`. Prints each certificate of the list.
///
/// # Errors
/// [`Failure::Usage`] with all errors of the list.
pub(crate) fn check(options: &cli::Check) -> Result<(), Failure> {
    let variables = certificates::of_process(options.node_name.as_deref())?;
    let list = List::read(&options.file, &variables)?;
    // The layouts of stores have rules of their own.
    let volumes = Volumes::default();
    list.members.iter().try_for_each(|member| member.open_store(&volumes).map(drop))?;
    list.trust_bundles.iter().try_for_each(|listed| BundleFile::listed(listed, &volumes).map(drop))?;
    print(&if options.json { json_line(&to_json(&list)) } else { to_text(&list) });
    Ok(())
}

fn to_text(list: &List) -> String {
    let counted = |count: usize, noun| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let certificates = counted(list.members.len(), "certificate");
    let bundles = match list.trust_bundles.len() {
        0 => String::new(),
        count => format!(", {}", counted(count, "trust bundle")),
    };
    let mut text = columns(&[("list", format!("{}: good, {certificates}{bundles}", list.path.display()))]);
    for member in &list.members {
        let mut lines = vec![
            ("certificate", member.name.clone()),
            ("  request", format!("{} from {}", request(member), member.signer)),
            ("  usages", if member.pod.is_some() { "as the signer chooses".into() } else { usages(member).join(", ") }),
            ("  identity", identity(&member.asker)),
            ("  server", format!("the API server of {}", member.cluster_kubeconfig.display())),
            ("  files", files(member)),
            ("  rotation", rotation(member)),
        ];
        if !member.after.is_empty() {
            lines.push(("  after", member.after.join(", ")));
        }
        if let Some(command) = &member.reaction.command {
            lines.push(("  runs", format!("{}, for at most {}", command.arguments.join(" "), words(command.timeout))));
        }
        if let Some(signal) = &member.reaction.signal {
            let name = signal.signal.name();
            lines.push(("  signals", format!("SIG{name} to the process in {}", signal.path.display())));
        }
        text.push_str(&columns(&lines));
    }
    for ListedBundle { bundle, asker, cluster_kubeconfig, .. } in &list.trust_bundles {
        let options = &bundle.options;
        let accounts = accounts(options.owner, options.group);
        text.push_str(&columns(&[
            ("bundle", bundle.selection.to_string()),
            ("  identity", identity(asker)),
            ("  server", format!("the API server of {}", cluster_kubeconfig.display())),
            ("  file", format!("{} (mode {:04o}){accounts}", bundle.path.display(), options.certificate_mode)),
        ]));
    }
    text
}

/// The names to request: `CN=a,DNS=b`, without an empty common name. For a pod, the pod and its service account.
fn request(member: &Member) -> String {
    if let Some(PodIdentity { namespace, name, service_account_name, node_name, .. }) =
        member.pod.as_ref().map(|pod| &pod.identity)
    {
        return format!("pod {namespace}/{name} with service account {service_account_name} on node {node_name}");
    }
    all_names(&member.template).unwrap_or_default()
}

/// The usages to request, `spec.usages`.
fn usages(member: &Member) -> Vec<String> {
    let profile = Profile { key_algorithm: member.key_type, ..Profile::new(member.required_usages.iter().copied()) };
    member.usages.clone().unwrap_or_else(|| CsrSigner::default_usages(&profile))
}

/// The identity that the requests of a member authenticate with, as a clause.
fn identity(asker: &Asker) -> String {
    match asker {
        Asker::Own { bootstrap_kubeconfig } => {
            format!("its own certificate; without a valid one, the user of {}", bootstrap_kubeconfig.display())
        }
        Asker::Member(name) => format!("the certificate {name}"),
        Asker::Kubeconfig(path) => format!("the user of {}", path.display()),
        Asker::TokenFile(path) => format!("the token in {}", path.display()),
    }
}

fn files(member: &Member) -> String {
    let (layout, options) = match &member.location {
        Location::Directory { path, prefix } => {
            return path.join(format!("{prefix}-current.pem")).display().to_string();
        }
        Location::Files(layout, options) => (layout, options),
        Location::Volume(volume) => return volume_files(member, volume),
    };
    let [key, certificate] = [options.key_mode, options.certificate_mode].map(|mode| format!("mode {mode:04o}"));
    let files = match layout {
        FileLayout::Linked { directory, certificate: chain, key: private } => {
            let at = directory.display();
            format!("{at}/{chain} ({certificate}) and {at}/{private} ({key}), switched together")
        }
        FileLayout::Plain { certificate: chain, key: private } => {
            format!("{} ({certificate}) and {} ({key})", chain.display(), private.display())
        }
        FileLayout::Bundle { file } => format!("{} ({key})", file.display()),
    };
    let ca = options.ca.as_ref().map(|ca| format!(", CA copy {}", ca.to.display())).unwrap_or_default();
    format!("{files}{ca}{}", accounts(options.owner, options.group))
}

/// The files of a member in a volume.
fn volume_files(member: &Member, volume: &VolumeFiles) -> String {
    let files: Vec<String> = member.files().iter().map(|file| file.display().to_string()).collect();
    let together = if let Projection::Files { .. } = volume.projection { ", switched together" } else { "" };
    let FileAccess { owner, group, mode } = volume.access;
    let private = volume.private.display();
    let files = files.join(" and ");
    format!("{files} (mode {mode:04o}{}){together}; private copy in {private}", accounts(owner, group))
}

/// The owner and the group of files, as clauses that end a sentence.
fn accounts(owner: Option<u32>, group: Option<u32>) -> String {
    let account = |id: Option<u32>, kind| id.map(|id| format!(", {kind} {id}")).unwrap_or_default();
    account(owner, "owner") + &account(group, "group")
}

fn rotation(member: &Member) -> String {
    let window = member.policy.window;
    let percent = |permille: u16| f64::from(permille) / 10.0;
    let (from, to) = (percent(window.from()), percent(window.to()));
    let longest = member.longest_lifetime();
    let at = match longest {
        Some(lifetime) => {
            let part = |permille: u16| words(lifetime * u32::from(permille) / 1000);
            format!(": {} to {} after notBefore", part(window.from()), part(window.to()))
        }
        None => String::new(),
    };
    let lifetime = match longest.map(words) {
        Some(lifetime) if member.lifetime.is_none() => format!("{lifetime} (the API's default for pods)"),
        lifetime => lifetime.unwrap_or_else(|| "the signer's lifetime".into()),
    };
    format!("at {from}% to {to}% of {lifetime}{at}; {} key", member.key_type)
}

/// The list as one JSON object.
fn to_json(list: &List) -> Value {
    let certificates: Vec<Value> = list.members.iter().map(member_json).collect();
    let bundles: Vec<Value> = list.trust_bundles.iter().map(bundle_json).collect();
    json!({ "file": list.path, "certificates": certificates, "trust_bundles": bundles })
}

fn pod_json(pod: &Pod) -> Value {
    let PodIdentity { namespace, name, uid, service_account_name, service_account_uid, node_name, node_uid } =
        &pod.identity;
    json!({
        "namespace": namespace,
        "name": name,
        "uid": uid,
        "service_account_name": service_account_name,
        "service_account_uid": service_account_uid,
        "node_name": node_name,
        "node_uid": node_uid,
        "user_annotations": pod.user_annotations,
    })
}

fn bundle_json(listed: &ListedBundle) -> Value {
    let ListedBundle { bundle, asker, cluster_kubeconfig, .. } = listed;
    let (signer, name, labels) = match &bundle.selection {
        BundleSelection::Signer { name, labels } => (name.as_str(), "", labels.as_str()),
        BundleSelection::Name(name) => ("", name.as_str(), ""),
    };
    json!({
        "signer": signer,
        "name": name,
        "labels": labels,
        "path": bundle.path,
        "identity": identity_json(asker),
        "cluster_kubeconfig": cluster_kubeconfig,
        "mode": format!("{:04o}", bundle.options.certificate_mode),
        "owner": bundle.options.owner,
        "group": bundle.options.group,
    })
}

fn identity_json(asker: &Asker) -> Value {
    let (kind, of) = match asker {
        Asker::Own { bootstrap_kubeconfig } => ("own", json!(bootstrap_kubeconfig)),
        Asker::Member(name) => ("certificate", json!(name)),
        Asker::Kubeconfig(path) => ("kubeconfig", json!(path)),
        Asker::TokenFile(path) => ("token_file", json!(path)),
    };
    json!({ "kind": kind, "of": of })
}

fn member_json(member: &Member) -> Value {
    let template = &member.template;
    let FileAccess { owner, group, mode } = match &member.location {
        Location::Directory { .. } => FileAccess { owner: None, group: None, mode: FileOptions::default().key_mode },
        Location::Files(_, options) => {
            FileAccess { owner: options.owner, group: options.group, mode: options.key_mode }
        }
        Location::Volume(volume) => volume.access,
    };
    let window = member.policy.window;
    let reaction = &member.reaction;
    json!({
        "name": member.name,
        "signer": member.signer,
        "request": request(member),
        "common_name": template.common_name(),
        "pod": member.pod.as_ref().map(pod_json),
        "usages": if member.pod.is_some() { Vec::new() } else { usages(member) },
        "key_type": member.key_type.to_string(),
        "lifetime_seconds": member.longest_lifetime().map(|lifetime| lifetime.as_secs()),
        "identity": identity_json(&member.asker),
        "cluster_kubeconfig": member.cluster_kubeconfig,
        "files": member.files(),
        "mode": format!("{mode:04o}"),
        "owner": owner,
        "group": group,
        "rotation_window_permille": [window.from(), window.to()],
        "after": member.after,
        "runs": reaction.command.as_ref().map(|command| &command.arguments),
        "signals": reaction.signal.as_ref().map(|signal| json!({ "pid_file": signal.path, "signal": signal.signal.name() })),
    })
}
