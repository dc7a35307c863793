//! What is prepared for the time from one reading of the configuration to the next, and how it is started.

use std::path::PathBuf;
use std::sync::Arc;

use perennial_pki::Chain;
use perennial_rotation::{Directory, DirectoryError, IdentitySource, NotYet, clock};
use serde_json::json;

use super::acceptance::Acceptance;
use super::addresses::Addresses;
use super::carried::Carried;
use super::external_cert::ExternalCert;
use super::hook::{self, Hook};
use super::node::{self, Node};
use super::node_object::NodeObject;
use super::running::Running;
use super::settings::{First, Serving, Settings};
use super::wake::Wakes;
use super::watch::Watch;
use crate::cli::Run;
use crate::failure::Failure;
use crate::files;
use crate::hook_debt;
use crate::kubeconfigs::{self, Access};
use crate::observers::Observers;
use crate::remedies::remedy;
use crate::report::{self, Report};
use crate::rotation::{Plan, SERVING_PREFIX};

/// The prefix of the common names of nodes.
const NODE: &str = "system:node:";

/// Everything that is needed, and nothing started yet.
pub(super) struct Prepared<'a> {
    options: &'a Run,
    settings: Settings,
    access: Access,
    stores: Stores,
    kept: Option<ExternalCert>,
    held: Option<Chain>,
    /// The file that always leads to the first certificate.
    current: PathBuf,
}

/// Where certificates are kept. They stay locked from one session to the next: nobody else gets in between.
pub(super) struct Stores {
    pub(super) first: Arc<Directory>,
    pub(super) serving: Option<Arc<Directory>>,
}

impl Stores {
    /// Makes this process the owner of the files of certificates that are rotated, or changes nothing.
    fn claim(&self, first_is_rotated: bool) -> Result<(), DirectoryError> {
        let rotated = || [first_is_rotated.then_some(&self.first), self.serving.as_ref()].into_iter().flatten();
        // If one cannot be had, the other is not to be touched.
        rotated().try_for_each(|store| store.is_free())?;
        rotated().try_for_each(|store| store.claim())
    }
}

impl<'a> Prepared<'a> {
    /// Reads what is needed, and changes nothing. What can be wrong with another configuration is found here, while the
    /// session before it is still `running`.
    pub(super) fn prepare(
        options: &'a Run,
        settings: Settings,
        running: Option<&Running<'_>>,
    ) -> Result<Self, Failure> {
        let at = |prefix: &str| Directory::at(&options.cert_dir, prefix).map(Arc::new).map_err(Failure::usage);
        let (first, held) = match running {
            Some(running) => (running.stores.first.clone(), running.held()),
            None => {
                let first = at(&options.wanted.prefix)?;
                let held = valid_in(&first, &settings.first)?;
                (first, held)
            }
        };
        // Another party's is not used to ask with.
        let name = settings.first.template.common_name();
        let held = held.filter(|held| !settings.first.rotated || held.certificate().common_name == name);
        let access = read_access(options, &settings, held.is_some())?;
        let kept = match &settings.serving {
            Serving::Files { certificate, key } => Some(ExternalCert::open(certificate, key)?),
            Serving::None | Serving::Rotated { .. } => None,
        };
        let serving = match (&settings.serving, running.and_then(|running| running.stores.serving.clone())) {
            (Serving::Rotated { .. }, Some(serving)) => Some(serving),
            (Serving::Rotated { .. }, None) => Some(at(SERVING_PREFIX)?),
            (Serving::None | Serving::Files { .. }, _) => None,
        };
        let current = std::path::absolute(first.current()).map_err(Failure::usage)?;
        if access.write {
            kubeconfigs::make_room(&options.kubeconfig, &current)?;
        }
        Ok(Self { options, settings, access, stores: Stores { first, serving }, kept, held, current })
    }

    /// Makes sure that the certificates can be written: the last thing before the start that can fail for bad usage, and
    /// the first that changes a directory.
    pub(super) fn claim(&self) -> Result<(), Failure> {
        self.stores.claim(self.settings.first.rotated).map_err(|error| {
            Failure::Usage(match remedy_of(&error) {
                Some(remedy) => format!("{error}; {remedy}"),
                None => error.to_string(),
            })
        })
    }

    /// Starts every rotation, from where the ones before it ended.
    pub(super) fn start(
        self,
        carried: Carried,
        wakes: &Wakes,
        observers: &Observers,
        hook: &Hook,
        report: &mut Report,
    ) -> Result<Running<'a>, Failure> {
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
            "server": access.server.cluster.to_string(),
            "proxy": access.server.cluster.proxy().map(ToString::to_string),
            "certificate": held.as_ref().map(report::certificate),
        });
        let what = match node_name {
            Some(node) => format!("the client certificate of node {node}"),
            None => format!("the certificate of {identity}"),
        };
        let serves = matches!(serving, Serving::Rotated { .. });
        let does = match first.rotated {
            true if serves => {
                format!("keeps {what} and its serving certificate rotated, with {}", access.server.cluster)
            }
            true => format!("keeps {what} rotated, with {}", access.server.cluster),
            false if serves => format!(
                "watches {what}, which another program rotates, and keeps its serving certificate rotated, with {}",
                access.server.cluster
            ),
            false => format!("watches {what}, which another program rotates"),
        };
        report.event("started", fields, &does);

        let of = options.wanted.prefix.as_str();
        match first.rotated {
            true => begin_hook(hook, options, of, &stores.first, identity),
            false => hook.forget_record(of),
        }
        let plan = Plan {
            name: if stores.serving.is_some() { of.to_owned() } else { String::new() },
            policy: policy.clone(),
            // Whoever keeps what is not rotated decides what it is for.
            common_name: first.rotated.then(|| first.template.common_name().to_owned()),
            template: first.rotated.then(|| first.template.clone()),
            signer: first.signer(options, access.server.cluster.clone(), access.bootstrap.clone()),
            store: stores.first.clone(),
            left: carried.left(of),
            observers: observers.of(of).into_iter().chain([wakes.observer()]).collect(),
        };
        let running = plan.start(options.runtime)?;
        let handle = running.handle().clone();
        let mut watches = vec![Watch::new(of, running, current.clone(), carried.told(of))];
        let interval = options.numbers.certificate_check_interval;
        let acceptance = if first.rotated && first.renews_itself && !options.once && !interval.is_zero() {
            Some(Acceptance::watch(identity, interval, access.server.cluster.clone(), handle.clone())?)
        } else {
            None
        };
        let mut object = None;
        if let (Serving::Rotated { node: name, addresses }, Some(store)) = (serving, &stores.serving) {
            let node = Node::new(first.renews_itself.then_some(handle), options.kubeconfig.clone());
            let (identity, looks_on) = node.asks();
            begin_hook(hook, options, SERVING_PREFIX, store, &node::common_name(name));
            let plan = Plan {
                name: SERVING_PREFIX.to_owned(),
                policy: policy.clone(),
                common_name: Some(node::common_name(name)),
                // Asked for when there is somebody to ask as.
                template: None,
                signer: Some(first.serving_signer(options, access.server.cluster.clone(), identity)),
                store: store.clone(),
                left: carried.left(SERVING_PREFIX),
                observers: observers.of(SERVING_PREFIX).into_iter().chain([looks_on, wakes.observer()]).collect(),
            };
            let running = plan.start(options.runtime)?;
            let current = std::path::absolute(store.current()).map_err(Failure::usage)?;
            watches.push(Watch::new(SERVING_PREFIX, running, current, carried.told(SERVING_PREFIX)));
            if matches!(addresses, Addresses::Cluster(_)) {
                object = Some(NodeObject::watch(name, access.server.cluster.clone(), node, wakes.waker())?);
            }
        }
        if let Some(kept) = &mut kept {
            kept.resume(&carried);
        }
        let rotated = watches.iter().map(|watch| (watch.of.clone(), watch.source()));
        observers.watch(rotated.chain(kept.iter().map(ExternalCert::source)), &access.server);
        let to_write = access.write;
        Ok(Running {
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

/// Makes the record of what `--on-rotated` owes, or goes on from it, before anything is rotated.
fn begin_hook(hook: &Hook, options: &Run, of: &str, store: &Directory, common_name: &str) {
    let now = clock::now().unix;
    // What cannot be read owes nothing until it is replaced.
    let file = std::path::absolute(store.current()).unwrap_or_else(|_| store.current());
    let in_use = store.load_of(Some(common_name), now).ok().and_then(|loaded| loaded.credential);
    let in_use = in_use.filter(|(credential, _)| !credential.chain().certificate().validity.expired(now));
    let in_use = in_use.map(|(credential, _)| hook::subject(file.clone(), credential.chain()));
    hook.begin(of, hook_debt::place(&options.cert_dir, of), in_use);
}

/// The kubeconfigs, as far as they are needed.
fn read_access(options: &Run, settings: &Settings, held: bool) -> Result<Access, Failure> {
    let first = &settings.first;
    let needed = first.rotated && !(held && first.renews_itself);
    let access =
        kubeconfigs::read(&options.kubeconfig, options.bootstrap_kubeconfig.as_deref(), options.proxy, needed)?;
    let name = first.template.common_name();
    let bootstrap = match first.renews_itself && name.starts_with(NODE) {
        true => not_of_another_node(name, access.bootstrap),
        false => access.bootstrap,
    };
    if needed {
        bootstrap.identity().map_err(|why| Failure::Usage(why.to_string()))?;
    }
    Ok(Access { write: access.write && first.rotated && first.renews_itself, bootstrap, ..access })
}

/// `source`, but for the certificate of another node: no API server gives that node this one's certificate.
fn not_of_another_node(name: &str, source: Arc<dyn IdentitySource>) -> Arc<dyn IdentitySource> {
    let name = name.to_owned();
    Arc::new(move || {
        let identity = source.identity()?;
        let shown = identity.certificate().map(|credential| &credential.chain().certificate().common_name);
        match shown.filter(|shown| shown.starts_with(NODE) && **shown != name) {
            None => Ok(identity),
            Some(shown) => Err(NotYet::new(format!(
                "the certificate that the kubeconfig names is for {shown:?}, not for {name:?}: check --node-name and \
                 --hostname-override; to make this machine another node, give a bootstrap kubeconfig"
            ))),
        }
    })
}

/// The valid certificate in the directory, if there is one.
fn valid_in(store: &Directory, first: &First) -> Result<Option<Chain>, Failure> {
    let now = clock::now().unix;
    let loaded = match first.rotated {
        true => store.load_settled(Some(first.template.common_name()), now),
        false => store.load(now),
    };
    let chain = loaded.map_err(Failure::usage)?.credential.map(|(credential, _)| credential.chain().clone());
    Ok(chain.filter(|chain| !chain.certificate().validity.expired(now)))
}

fn remedy_of(error: &DirectoryError) -> Option<&'static str> {
    matches!(error, DirectoryError::MountPoint { .. }).then(|| remedy(error, false))
}
