//! The status of all certificates and trust bundles of a certificate list.

use std::path::Path;

use perennial::UnixTime;
use perennial_pki::Chain;
use perennial_rotation::{Directory, LoadRequest, Store as _, Stored, clock};
use serde_json::{Map, Value, json};

use super::found::{Drawn, Found, shown};
use super::{CertStatus, HookState, bundles, judge, pending};
use crate::bundle_file::BundleView;
use crate::certificates::{List, Location, Member, MemberStore, Volumes, of_process};
use crate::cli;
use crate::failure::Failure;
use crate::files;
use crate::hook_debt::LIST_HOOK;
use crate::remedies::FOREIGN;
use crate::report::{self, print};

/// The remedy for files that are not those of the newest certificate.
const WRITES: &str = "start `perennial run` if it does not run: it writes the files again within 30 seconds after the certificate's start, \
    and its log has the reason if the certificate cannot start";

/// The status of a member, or the reason why its files cannot be read.
type View<'a> = (&'a Member, Result<CertStatus, String>);

/// Runs `perennial status --certificates`. Prints the state of all certificates and trust bundles of the list at this path.
///
/// # Errors
/// [`Failure::Usage`] if the list has an error. [`Failure::Failed`] if a certificate is not good, or a trust bundle is not
/// written.
pub(super) fn status(path: &Path, options: &cli::Status) -> Result<(), Failure> {
    let list = List::read(path, &of_process(options.node_name.as_deref())?)?;
    let now = clock::now().unix;
    let views: Vec<View<'_>> = list.members.iter().map(|member| (member, view(member, now))).collect();
    let bundles = bundles::of_list(&list)?;
    print(&if options.json { to_json(path, &views, &bundles) } else { to_text(path, &views, &bundles, now) });
    let mut bad = views.iter().filter_map(|(member, view)| {
        let why = match view {
            Ok(view) if view.verdict.good => return None,
            Ok(view) => &view.verdict.words,
            Err(why) => why,
        };
        Some(format!("{}: {why}", member.name))
    });
    let Some(first) = bad.next() else {
        let problem = bundles::first_problem(&bundles);
        return problem.map_or(Ok(()), |why| Err(Failure::Failed(format!("{}: {why}", path.display()))));
    };
    let more = match bad.count() {
        0 => String::new(),
        more => format!("; {more} more of {} certificates are not good", views.len()),
    };
    Err(Failure::Failed(format!("{}: {first}{more}", path.display())))
}

fn view(member: &Member, now: UnixTime) -> Result<CertStatus, String> {
    let (signer, policy) = (Some(member.signer.as_str()), &member.policy);
    let status = match &member.location {
        Location::Directory { path, prefix } => Directory::open_existing(path, prefix)
            .map_err(Failure::usage)
            .and_then(|directory| CertStatus::of(&directory, prefix, signer, policy, now)),
        Location::Files(..) | Location::Volume(_) => {
            member.open_store(&Volumes::default()).map(|store| of_files(member, &store, now))
        }
    };
    status.map_err(|error| error.to_string())
}

/// The status of a member whose files are laid out for other programs.
fn of_files(member: &Member, files: &MemberStore, now: UnixTime) -> CertStatus {
    let (store, certificate) = (files.store(), files.certificate());
    let common_name = member.template.wanted_common_name();
    let loaded = store.load(&LoadRequest { common_name, has_signer: false, now, keys: None, request_digest: None });
    let mut file = shown(&certificate);
    let (mut problems, mut next) = (Vec::new(), None);
    let found = match loaded {
        Err(error) => Found::Bad { state: "unreadable", file: Some(file), why: error.to_string() },
        Ok(Stored { credential: None, .. }) => Found::Nothing,
        Ok(Stored { credential: Some(held), waiting, .. }) => {
            let chain = held.chain().clone();
            next = waiting.map(|waiting| (shown(files.private_directory()), waiting.chain().clone()));
            let public = files::read(&certificate).map_err(|error| error.to_string());
            let public = public.and_then(|pem| Chain::from_pem(&pem).map_err(|error| error.to_string()));
            let problem = match public {
                Ok(public) if public == chain => None,
                Ok(_) => Some("this is not the newest certificate".to_owned()),
                Err(why) => Some(why),
            };
            // The file of another program stays, or has a pair that perennial adopts.
            if let Some(why) = files.obstacle(member.template.common_name(), now) {
                problems.push((why, FOREIGN));
            } else if let Some(why) = &problem {
                problems.push((format!("{file}: {why}"), WRITES));
            }
            if problem.is_some() {
                file = shown(files.private_directory());
            }
            Found::Certificate { file, chain, key_matches: true }
        }
    };
    let record = pending::read_from(&*store, shown(files.private_directory()));
    // As `run` draws it: a rotation without a common name has its own name only.
    let name = Some(member.template.common_name()).filter(|name| !name.is_empty()).unwrap_or(&member.name);
    let drawn = Drawn { signer_name: &member.signer, name: Some(name) };
    let (verdict, pending, on_demand_at) = judge(&found, problems.is_empty(), record, drawn, &member.policy, now);
    let hook = HookState::read(LIST_HOOK, &member.hook_record(files), found.chain());
    let (prefix, previous, aside) = (member.name.clone(), Vec::new(), Vec::new());
    CertStatus { prefix, found, verdict, pending, on_demand_at, previous, next, problems, aside, hook }
}

fn to_json(path: &Path, views: &[View<'_>], bundles: &[BundleView]) -> String {
    let field = |(member, view): &View<'_>| {
        let fields = match view {
            Ok(view) => view.to_json(),
            Err(why) => json!({ "state": "unreadable", "error": why }),
        };
        let more = json!({ "signer": member.signer });
        (member.name.clone(), report::with(fields, more))
    };
    let certificates: Map<String, Value> = views.iter().map(field).collect();
    let bundles: Vec<Value> = bundles.iter().map(BundleView::to_json).collect();
    report::json_line(&json!({ "list": path, "certificates": certificates, "trust_bundles": bundles }))
}

fn to_text(path: &Path, views: &[View<'_>], bundles: &[BundleView], now: UnixTime) -> String {
    let block = |(member, view): &View<'_>| {
        let name = ("certificate", member.name.clone());
        let lines = match view {
            // The first line of a certificate directory is the prefix, which the name replaces.
            Ok(view) => [name].into_iter().chain(view.lines(now).into_iter().skip(1)).collect(),
            Err(why) => vec![name, ("state", format!("cannot be read: {why}"))],
        };
        report::columns(&lines)
    };
    let blocks: Vec<_> = views.iter().map(block).chain(bundles.iter().map(bundles::to_text)).collect();
    report::columns(&[("list", path.display().to_string())]) + &blocks.join("\n")
}
