//! The status of all certificates of a certificate list.

use std::path::Path;

use perennial::UnixTime;
use perennial_rotation::{Directory, clock};
use serde_json::{Map, Value, json};

use super::CertStatus;
use crate::certificates::{List, Member, StoreKind, of_process};
use crate::cli;
use crate::failure::Failure;
use crate::report::{self, print};

/// The status of a member, or the reason why its files cannot be read.
type View<'a> = (&'a Member, Result<CertStatus, String>);

/// Runs `perennial status --certificates`. Prints the state of all certificates of the list at this path.
///
/// # Errors
/// [`Failure::Usage`] if the list has an error. [`Failure::Failed`] if a certificate is not good.
pub(super) fn status(path: &Path, options: &cli::Status) -> Result<(), Failure> {
    let list = List::read(path, &of_process(options.node_name.as_deref())?)?;
    let now = clock::now().unix;
    let views: Vec<View<'_>> = list.members.iter().map(|member| (member, view(member, now))).collect();
    print(&if options.json { to_json(path, &views) } else { to_text(path, &views, now) });
    let mut bad = views.iter().filter_map(|(member, view)| {
        let why = match view {
            Ok(view) if view.verdict.good => return None,
            Ok(view) => &view.verdict.words,
            Err(why) => why,
        };
        Some(format!("{}: {why}", member.name))
    });
    let Some(first) = bad.next() else { return Ok(()) };
    let more = match bad.count() {
        0 => String::new(),
        more => format!("; {more} more of {} certificates are not good", views.len()),
    };
    Err(Failure::Failed(format!("{}: {first}{more}", path.display())))
}

fn view(member: &Member, now: UnixTime) -> Result<CertStatus, String> {
    match &member.location.kind {
        StoreKind::Directory { path, prefix } => {
            let directory = Directory::open_existing(path, prefix).map_err(|error| error.to_string())?;
            CertStatus::of(&directory, prefix, Some(&member.signer), &member.policy, now)
                .map_err(|error| error.to_string())
        }
        _ => Err("this kind of store is not known".into()),
    }
}

fn to_json(path: &Path, views: &[View<'_>]) -> String {
    let field = |(member, view): &View<'_>| {
        let fields = match view {
            Ok(view) => view.to_json(),
            Err(why) => json!({ "state": "unreadable", "error": why }),
        };
        let more = json!({ "signer": member.signer });
        (member.name.clone(), report::with(fields, more))
    };
    let certificates: Map<String, Value> = views.iter().map(field).collect();
    report::json_line(&json!({ "list": path, "certificates": certificates }))
}

fn to_text(path: &Path, views: &[View<'_>], now: UnixTime) -> String {
    let block = |(member, view): &View<'_>| {
        let name = ("certificate", member.name.clone());
        let lines = match view {
            // The first line of a certificate directory is the prefix, which the name replaces.
            Ok(view) => [name].into_iter().chain(view.lines(now).into_iter().skip(1)).collect(),
            Err(why) => vec![name, ("state", format!("cannot be read: {why}"))],
        };
        report::columns(&lines)
    };
    let blocks: Vec<_> = views.iter().map(block).collect();
    report::columns(&[("list", path.display().to_string())]) + &blocks.join("\n")
}
