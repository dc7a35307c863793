//! What is prepared for the time from one reading of the configuration to the next, and how it is started.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_pki::Chain;
use perennial_std::{Directory, clock};
use serde_json::json;

use super::acceptance::Acceptance;
use super::addresses::Addresses;
use super::carried::Carried;
use super::keeping::Keeping;
use super::kept::Kept;
use super::node::{self, Node};
use super::node_object::NodeObject;
use super::settings::{Serving, Settings};
use super::wake::Wakes;
use super::watch::Watch;
use crate::cli::Run;
use crate::failure::Failure;
use crate::files;
use crate::kubeconfigs::{self, Access};
use crate::observers::Observers;
use crate::report::{self, Report};
use crate::rotation::{Plan, SERVING_PREFIX};

/// Everything that is needed, and nothing started yet.
pub(super) struct Session<'a> {
    options: &'a Run,
    settings: Settings,
    access: Access,
    stores: Stores,
    kept: Option<Kept>,
    held: Option<Chain>,
    /// The file that always leads to the first certificate.
    current: PathBuf,
}

/// Where certificates are kept. They stay open from one session to the next: nobody else gets in between.
pub(super) struct Stores {
    pub(super) first: Arc<Directory>,
    pub(super) serving: Option<Arc<Directory>>,
}

impl<'a> Session<'a> {
    /// Reads and opens what is needed; creates no more than the directory. What can be wrong with another configuration
    /// is found here, while the session before it is still `running`.
    pub(super) fn prepare(
        options: &'a Run,
        settings: Settings,
        running: Option<&Keeping<'_>>,
    ) -> Result<Self, Failure> {
        // A kubeconfig that names the pair in use can be read only when that is in order.
        let (first, held) = match running {
            Some(running) => {
                // If somebody has removed it, it is wanted again.
                if let Err(error) = files::create_directory(&options.cert_dir) {
                    tracing::warn!("cannot create {}: {error}", options.cert_dir.display());
                }
                (Some(running.stores.first.clone()), running.held())
            }
            None => recover(options, settings.first.template.common_name())?,
        };
        // Another party's is not used to ask with.
        let name = settings.first.template.common_name();
        let held = held.filter(|held| !settings.first.rotated || held.certificate().common_name == name);
        let access = read_access(options, &settings, held.is_some())?;
        let kept = match &settings.serving {
            Serving::Files { certificate, key } => Some(Kept::open(certificate, key)?),
            Serving::None | Serving::Rotated { .. } => None,
        };
        let open = |prefix: &str| Directory::open(&options.cert_dir, prefix).map(Arc::new).map_err(Failure::usage);
        let first = match first {
            Some(first) => first,
            None => open(&options.wanted.prefix)?,
        };
        let serving = match (&settings.serving, running.and_then(|running| running.stores.serving.clone())) {
            (Serving::Rotated { .. }, Some(serving)) => Some(serving),
            (Serving::Rotated { .. }, None) => Some(open(SERVING_PREFIX)?),
            (Serving::None | Serving::Files { .. }, _) => None,
        };
        let current = std::path::absolute(first.current()).map_err(Failure::usage)?;
        if access.write {
            kubeconfigs::make_room(&options.kubeconfig, &current)?;
        }
        Ok(Self { options, settings, access, stores: Stores { first, serving }, kept, held, current })
    }

    /// Starts every rotation, from where the ones before it ended.
    pub(super) fn start(
        self,
        carried: Carried,
        wakes: &Wakes,
        observers: &Observers,
        report: &mut Report,
    ) -> Result<Keeping<'a>, Failure> {
        let Self { options, settings, access, stores, mut kept, held, current } = self;
        let Settings { policy, first, serving } = &settings;
        let identity = first.template.common_name();
        if first.rotated {
            files::sweep(&options.kubeconfig);
        }
        let node_name = identity.strip_prefix("system:node:");
        let fields = json!({
            "runtime": options.runtime.name(),
            "node": node_name,
            "common_name": identity,
            "server": access.cluster.to_string(),
            "certificate": held.as_ref().map(report::certificate),
        });
        let what = match node_name {
            Some(node) => format!("the client certificate of node {node}"),
            None => format!("the certificate of {identity}"),
        };
        let serves = matches!(serving, Serving::Rotated { .. });
        let does = match first.rotated {
            true if serves => format!("keeps {what} and its serving certificate rotated, with {}", access.cluster),
            true => format!("keeps {what} rotated, with {}", access.cluster),
            false if serves => format!(
                "looks on while somebody else keeps {what}, and keeps its serving certificate rotated, with {}",
                access.cluster
            ),
            false => format!("looks on while somebody else keeps {what}"),
        };
        report.event("started", fields, &does);

        let of = options.wanted.prefix.as_str();
        let plan = Plan {
            name: if stores.serving.is_some() { of.to_owned() } else { String::new() },
            policy: policy.clone(),
            common_name: first.template.common_name().to_owned(),
            // Whoever keeps what is not rotated decides what it is for.
            template: first.rotated.then(|| first.template.clone()),
            signer: first.signer(options, access.cluster.clone(), access.bootstrap.clone()),
            store: stores.first.clone(),
            left: carried.left(of),
            observers: observers.of(of),
        };
        let running = plan.start(options.runtime)?;
        let handle = running.handle().clone();
        wakes.watch(&handle)?;
        let mut watches = vec![Watch::new(of, running, current.clone(), carried.told(of))];
        let interval = options.numbers.certificate_check_interval;
        let acceptance = if first.rotated && first.renews_itself && !options.once && !interval.is_zero() {
            Some(Acceptance::watch(identity, interval, access.cluster.clone(), handle.clone())?)
        } else {
            None
        };
        let mut object = None;
        if let (Serving::Rotated { node: name, addresses }, Some(store)) = (serving, &stores.serving) {
            let node = Node::new(first.renews_itself.then_some(handle), options.kubeconfig.clone());
            let (identity, looks_on) = node.asks();
            let plan = Plan {
                name: SERVING_PREFIX.to_owned(),
                policy: policy.clone(),
                common_name: node::common_name(name),
                // Asked for when there is somebody to ask as.
                template: None,
                signer: Some(first.serving_signer(options, access.cluster.clone(), identity)),
                store: store.clone(),
                left: carried.left(SERVING_PREFIX),
                observers: observers.of(SERVING_PREFIX).into_iter().chain([looks_on]).collect(),
            };
            let running = plan.start(options.runtime)?;
            wakes.watch(running.handle())?;
            let current = std::path::absolute(store.current()).map_err(Failure::usage)?;
            watches.push(Watch::new(SERVING_PREFIX, running, current, carried.told(SERVING_PREFIX)));
            if matches!(addresses, Addresses::Cluster(_)) {
                object = Some(NodeObject::watch(name, access.cluster.clone(), node, wakes.waker())?);
            }
        }
        if let Some(kept) = &mut kept {
            kept.resume(&carried);
        }
        let rotated = watches.iter().map(|watch| (watch.of.clone(), watch.source()));
        observers.watch(rotated.chain(kept.iter().map(Kept::source)));
        let to_write = access.write;
        Ok(Keeping {
            options,
            settings,
            access,
            stores,
            current,
            watches,
            kept,
            object,
            _acceptance: acceptance,
            to_write,
            checked: (None, String::new()),
            found: None,
            missing_since: carried.missing_since,
        })
    }
}

/// The kubeconfigs, as far as they are needed.
fn read_access(options: &Run, settings: &Settings, held: bool) -> Result<Access, Failure> {
    let first = &settings.first;
    let needed = first.rotated && !(held && first.renews_itself);
    let access = kubeconfigs::read(&options.kubeconfig, options.bootstrap_kubeconfig.as_deref(), needed)?;
    Ok(Access { write: access.write && first.rotated && first.renews_itself, ..access })
}

/// The directory, if it exists, put right, and the valid certificate in it, if there is one.
fn recover(options: &Run, common_name: &str) -> Result<(Option<Arc<Directory>>, Option<Chain>), Failure> {
    if !Path::exists(&options.cert_dir) {
        return Ok((None, None));
    }
    let store = Directory::open(&options.cert_dir, &options.wanted.prefix).map_err(Failure::usage)?;
    let now = clock::now().unix;
    let loaded = store.recover_of(Some(common_name), now).map_err(Failure::usage)?;
    loaded.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    let chain = loaded.credential.map(|(credential, _)| credential.chain().clone());
    Ok((Some(store.into()), chain.filter(|chain| !chain.certificate().validity.expired(now))))
}
