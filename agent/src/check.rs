//! `perennial check`: checks a certificate list, and prints what a run with this list would do.

use perennial_kubernetes::CsrSigner;
use perennial_rotation::{FileLayout, FileOptions, Profile};
use serde_json::{Value, json};

use crate::certificates::{self, Asker, List, Location, Member};
use crate::cli;
use crate::failure::Failure;
use crate::report::{columns, json_line, print};
use crate::spans::words;

/// Runs `perennial check`. Prints each certificate of the list.
///
/// # Errors
/// [`Failure::Usage`] with all errors of the list.
pub(crate) fn check(options: &cli::Check) -> Result<(), Failure> {
    let variables = certificates::of_process(options.node_name.as_deref())?;
    let list = List::read(&options.file, &variables)?;
    // The layouts of stores have rules of their own.
    list.members.iter().try_for_each(|member| member.open_store().map(drop))?;
    print(&if options.json { json_line(&to_json(&list)) } else { to_text(&list) });
    Ok(())
}

fn to_text(list: &List) -> String {
    let count = list.members.len();
    let plural = if count == 1 { "" } else { "s" };
    let mut text = columns(&[("list", format!("{}: good, {count} certificate{plural}", list.path.display()))]);
    for member in &list.members {
        let mut lines = vec![
            ("certificate", member.name.clone()),
            ("  request", format!("{} from {}", request(member), member.signer)),
            ("  usages", usages(member).join(", ")),
            ("  identity", identity(member)),
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
    text
}

/// The names to request: `CN=a,DNS=b`, without an empty common name.
fn request(member: &Member) -> String {
    let names = member.template.to_string();
    names.strip_prefix("CN=,").map_or_else(|| names.clone(), str::to_owned)
}

/// The usages to request, `spec.usages`.
fn usages(member: &Member) -> Vec<String> {
    let profile = Profile { key_algorithm: member.key_type, ..Profile::new(member.required_usages.iter().copied()) };
    member.usages.clone().unwrap_or_else(|| CsrSigner::default_usages(&profile))
}

/// The identity that the requests of a member authenticate with, as a clause.
fn identity(member: &Member) -> String {
    match &member.asker {
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
    let owner = |id: Option<u32>, kind| id.map(|id| format!(", {kind} {id}")).unwrap_or_default();
    format!("{files}{ca}{}{}", owner(options.owner, "owner"), owner(options.group, "group"))
}

fn rotation(member: &Member) -> String {
    let window = member.policy.window;
    let percent = |permille: u16| f64::from(permille) / 10.0;
    let (from, to) = (percent(window.from()), percent(window.to()));
    let at = match member.lifetime {
        Some(lifetime) => {
            let part = |permille: u16| words(lifetime * u32::from(permille) / 1000);
            format!(": {} to {} after notBefore", part(window.from()), part(window.to()))
        }
        None => String::new(),
    };
    let lifetime = member.lifetime.map_or_else(|| "the signer's lifetime".to_owned(), words);
    format!("at {from}% to {to}% of {lifetime}{at}; {} key", member.key_type)
}

/// The list as one JSON object.
fn to_json(list: &List) -> Value {
    let certificates: Vec<Value> = list.members.iter().map(member_json).collect();
    json!({ "file": list.path, "certificates": certificates })
}

fn member_json(member: &Member) -> Value {
    let template = &member.template;
    let (identity, of) = match &member.asker {
        Asker::Own { bootstrap_kubeconfig } => ("own", json!(bootstrap_kubeconfig)),
        Asker::Member(name) => ("certificate", json!(name)),
        Asker::Kubeconfig(path) => ("kubeconfig", json!(path)),
        Asker::TokenFile(path) => ("token_file", json!(path)),
    };
    let options = match &member.location {
        Location::Directory { .. } => &FileOptions::default(),
        Location::Files(_, options) => options,
    };
    let window = member.policy.window;
    let reaction = &member.reaction;
    json!({
        "name": member.name,
        "signer": member.signer,
        "request": request(member),
        "common_name": template.common_name(),
        "usages": usages(member),
        "key_type": member.key_type.to_string(),
        "lifetime_seconds": member.lifetime.map(|lifetime| lifetime.as_secs()),
        "identity": { "kind": identity, "of": of },
        "cluster_kubeconfig": member.cluster_kubeconfig,
        "files": member.files(),
        "mode": format!("{:04o}", options.key_mode),
        "owner": options.owner,
        "group": options.group,
        "rotation_window_permille": [window.from(), window.to()],
        "after": member.after,
        "runs": reaction.command.as_ref().map(|command| &command.arguments),
        "signals": reaction.signal.as_ref().map(|signal| json!({ "pid_file": signal.path, "signal": signal.signal.name() })),
    })
}
