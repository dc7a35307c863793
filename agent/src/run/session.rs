//! From one reading of the configuration to the next: what is prepared, what then runs, and when it ends.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial::{Failure as Reason, Template};
use perennial_kubernetes::cluster::Identity;
use perennial_kubernetes::rotation::{IdentitySource, Observer};
use perennial_pki::{Chain, Credential};
use perennial_std::{Directory, Handle, clock};
use serde_json::json;

use super::addresses::Addresses;
use super::hook::Hook;
use super::kept::Kept;
use super::node_object::NodeObject;
use super::service::Service;
use super::settings::{self, Serving, Settings};
use super::wake::{Wake, Wakes};
use super::watch::Watch;
use crate::cli::Run;
use crate::failure::Failure;
use crate::kubeconfigs::{self, Access};
use crate::metrics::Source;
use crate::observers::Observers;
use crate::report::{self, Report};
use crate::rotation::{Plan, SERVING_PREFIX};
use crate::spans::words;

/// How often what cannot tell of its changes is looked at: files of others, and clocks.
const LOOK: Duration = Duration::from_secs(5);
/// How often a kubeconfig that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Everything that is needed, and nothing started yet.
pub(super) struct Session<'a> {
    options: &'a Run,
    settings: Settings,
    access: Access,
    store: Directory,
    kept: Option<Kept>,
    held: Option<Chain>,
    /// The file that always leads to the first certificate.
    current: PathBuf,
}

/// How a session ended.
pub(super) enum Ended {
    /// By a signal.
    Stopped,
    /// All that was wanted is in place.
    InPlace,
    /// There is another configuration.
    Reloaded(Box<Settings>),
}

impl<'a> Session<'a> {
    /// Reads and opens what is needed; creates no more than the directory.
    pub(super) fn prepare(options: &'a Run, settings: Settings) -> Result<Self, Failure> {
        // A kubeconfig that names the pair in use can be read only when that is in order.
        let (store, held) = held(options, settings.first.template.common_name())?;
        let access = read_access(options, &settings, held.is_some())?;
        let kept = match &settings.serving {
            Serving::Files { certificate, key } => Some(Kept::open(certificate, key)?),
            Serving::None | Serving::Rotated { .. } => None,
        };
        let store = match store {
            Some(store) => store,
            None => Directory::open(&options.cert_dir, &options.wanted.prefix).map_err(Failure::usage)?,
        };
        let current = std::path::absolute(store.current()).map_err(Failure::usage)?;
        if access.write {
            kubeconfigs::make_room(&options.kubeconfig, &current)?;
        }
        Ok(Self { options, settings, access, store, kept, held, current })
    }

    /// Starts every rotation.
    pub(super) fn start(
        self,
        wakes: &Wakes,
        observers: &Observers,
        report: &mut Report,
    ) -> Result<Keeping<'a>, Failure> {
        let Self { options, settings, access, store, kept, held, current } = self;
        let Settings { policy, first, serving } = &settings;
        let identity = first.template.common_name();
        let fields = json!({
            "runtime": options.runtime.name(),
            "node": identity.strip_prefix("system:node:"),
            "common_name": identity,
            "server": access.cluster.to_string(),
            "certificate": held.as_ref().map(report::certificate),
        });
        let what = match identity.strip_prefix("system:node:") {
            Some(node) => format!("the client certificate of node {node}"),
            None => format!("the certificate of {identity}"),
        };
        report.event("started", fields, &format!("keeps {what} rotated, with {}", access.cluster));

        let several = matches!(serving, Serving::Rotated { .. });
        let of = options.wanted.prefix.as_str();
        let plan = Plan {
            name: if several { of.to_owned() } else { String::new() },
            policy: policy.clone(),
            common_name: first.template.common_name().to_owned(),
            template: Some(first.template.clone()),
            signer: first.signer(options, access.cluster.clone(), access.bootstrap.clone()),
            store,
            observers: observers.of(of),
        };
        let running = plan.start(options.runtime)?;
        let handle = running.handle().clone();
        wakes.watch(&handle)?;
        let mut watches = vec![Watch::new(of, running, current.clone())];
        let mut object = None;
        if let Serving::Rotated { node: name, addresses } = serving {
            let looking_on = observers.of(SERVING_PREFIX);
            watches.push(start_serving(options, name, &settings, &access, &handle, wakes, looking_on)?);
            if matches!(addresses, Addresses::Cluster) {
                let user = node(options, &handle, &Shown::default());
                object = Some(NodeObject::watch(name, access.cluster.clone(), user, wakes.waker())?);
            }
        }
        let rotated = watches.iter().map(|watch| (watch.of.clone(), Source::Rotation(watch.running.handle().clone())));
        observers.watch(rotated.chain(kept.iter().map(Kept::source)));
        let to_write = access.write;
        let checked = (None, String::new());
        Ok(Keeping {
            options,
            settings,
            access,
            current,
            watches,
            kept,
            object,
            to_write,
            checked,
            missing_since: None,
        })
    }
}

fn start_serving(
    options: &Run,
    name: &str,
    settings: &Settings,
    access: &Access,
    first: &Handle,
    wakes: &Wakes,
    mut observers: Vec<Observer>,
) -> Result<Watch, Failure> {
    let store = Directory::open(&options.cert_dir, SERVING_PREFIX).map_err(Failure::usage)?;
    let current = std::path::absolute(store.current()).map_err(Failure::usage)?;
    let shown = Arc::new(Mutex::new(None));
    observers.push(tell_of_refusals(first.clone(), shown.clone()));
    let plan = Plan {
        name: SERVING_PREFIX.to_owned(),
        policy: settings.policy.clone(),
        common_name: Template::node(name).common_name().to_owned(),
        // Asked for when there is somebody to ask as.
        template: None,
        signer: Some(settings::serving_signer(options, access.cluster.clone(), node(options, first, &shown))),
        store,
        observers,
    };
    let running = plan.start(options.runtime)?;
    wakes.watch(running.handle())?;
    Ok(Watch::new(SERVING_PREFIX, running, current))
}

type Shown = Arc<Mutex<Option<Arc<Credential>>>>;

/// The node itself: by its certificate, or else as the kubeconfig says.
fn node(options: &Run, first: &Handle, shown: &Shown) -> IdentitySource {
    let (first, shown, kubeconfig) = (first.clone(), shown.clone(), options.kubeconfig.clone());
    Arc::new(move || {
        let own = first.credential();
        shown.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&own);
        own.map_or_else(|| kubeconfigs::identity(&kubeconfig), |own| Ok(Identity::Certificate(own)))
    })
}

/// When the API server does not know the node's certificate any more, that one is to be replaced first.
fn tell_of_refusals(first: Handle, shown: Shown) -> Observer {
    Box::new(move |step| {
        if step.failure() == Some(Reason::Unauthorized)
            && let Some(shown) = shown.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            first.refused(&shown);
        }
    })
}

/// Rotations that run.
pub(super) struct Keeping<'a> {
    options: &'a Run,
    settings: Settings,
    access: Access,
    current: PathBuf,
    /// The first certificate, then the serving one.
    watches: Vec<Watch>,
    /// The serving one, if somebody else keeps it.
    kept: Option<Kept>,
    /// Where the node is, if its cluster is asked.
    object: Option<NodeObject>,
    /// The kubeconfig is yet to be written.
    to_write: bool,
    /// What the serving certificate is for, and what was wrong with that, when last looked at.
    checked: (Option<Template>, String),
    /// There is no valid first certificate.
    missing_since: Option<Instant>,
}

impl Keeping<'_> {
    /// Looks on until a signal or, if that is all that was asked for, until everything is in place.
    pub(super) fn until_ended(
        &mut self,
        wakes: &Wakes,
        report: &mut Report,
        hook: &mut Hook,
        service: &mut Service,
    ) -> Result<Ended, Failure> {
        loop {
            self.watches.iter_mut().for_each(|watch| watch.look(report, hook));
            self.kept.iter_mut().for_each(|kept| kept.look(report, hook));
            let serves = self.watches.iter().all(|watch| watch.running.handle().credential().is_some());
            service.tell(serves, &self.watches.iter().map(Watch::status).collect::<Vec<_>>().join("; "));
            self.write_kubeconfig(report)?;
            self.look_at_addresses();
            self.look_at_expiry()?;
            if self.options.once && self.watches.iter().all(Watch::is_in_place) {
                return Ok(Ended::InPlace);
            }
            if self.watches.iter().any(|watch| watch.running.handle().link().has_ended()) {
                return Err(Failure::Failed("a rotation has ended by itself; please report this as a bug".into()));
            }
            let wake = match [self.next_look(), service.interval()].into_iter().flatten().min() {
                Some(span) => wakes.arrived.recv_timeout(span),
                None => wakes.arrived.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match wake {
                _ if wakes.stopping.load(Ordering::SeqCst) => return self.stopped(),
                Ok(Wake::Changed) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stopped(),
                Ok(Wake::Renew) => self.watches.iter().for_each(|watch| watch.running.handle().rotate_now()),
                Ok(Wake::Reload) => match self.read_again() {
                    Ok(settings) => return Ok(Ended::Reloaded(Box::new(settings))),
                    Err(why) => tracing::warn!("what there was goes on: {why}"),
                },
            }
        }
    }

    /// Ends every rotation; the serving one first, which depends on the other.
    pub(super) fn stop(self) {
        self.watches.into_iter().rev().for_each(|watch| watch.running.stop());
    }

    fn stopped(&self) -> Result<Ended, Failure> {
        if !self.options.once {
            return Ok(Ended::Stopped);
        }
        let trouble = self.watches.iter().find_map(Watch::trouble);
        let trouble = trouble.map(|trouble| format!("; the last trouble: {trouble}"));
        let why = format!("interrupted before a certificate was in place{}", trouble.unwrap_or_default());
        Err(Failure::Failed(why))
    }

    /// Another configuration, if it can be used.
    fn read_again(&self) -> Result<Settings, Failure> {
        let settings = Settings::read(self.options)?;
        let held = self.watches[0].running.handle().credential().is_some();
        read_access(self.options, &settings, held)?;
        if let Serving::Files { certificate, key } = &settings.serving {
            Kept::open(certificate, key)?;
        }
        Ok(settings)
    }

    fn write_kubeconfig(&mut self, report: &mut Report) -> Result<(), Failure> {
        if !self.to_write || !self.watches[0].is_in_place() {
            return Ok(());
        }
        let path = &self.options.kubeconfig;
        match kubeconfigs::write(path, &self.access.endpoint, &self.current) {
            Ok(()) => {
                self.to_write = false;
                report.event("kubeconfig", json!({ "path": path }), &format!("wrote {}", path.display()));
            }
            Err(why) if self.options.once => return Err(Failure::Failed(why)),
            Err(why) => tracing::warn!("{why}; will try again"),
        }
        Ok(())
    }

    /// The serving certificate is asked for once there is somebody to ask as, and again when addresses change.
    fn look_at_addresses(&mut self) {
        let (Serving::Rotated { node, addresses }, [first, serving]) = (&self.settings.serving, &*self.watches) else {
            return;
        };
        if self.settings.first.rotated && first.running.handle().credential().is_none() {
            return;
        }
        let (template, trouble) = match addresses.template(node, self.object.as_ref()) {
            Ok(Some(template)) => (Some(template), String::new()),
            Ok(None) => (None, "there is no IP address to ask for".into()),
            // What was read before is still the best that is known.
            Err(why) => (self.checked.0.clone(), why),
        };
        if !trouble.is_empty() && trouble != self.checked.1 {
            tracing::warn!("{SERVING_PREFIX}: {trouble}");
        }
        if template != self.checked.0 {
            let what = template.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            tracing::info!("{SERVING_PREFIX}: wanted from now on: {what}");
            serving.running.handle().set_template(template.clone());
        }
        self.checked = (template, trouble);
    }

    fn look_at_expiry(&mut self) -> Result<(), Failure> {
        let missing = self.watches[0].running.handle().credential().is_none();
        self.missing_since = missing.then(|| self.missing_since.unwrap_or_else(Instant::now));
        let since = self.missing_since.map(|since| since.elapsed());
        match (since, self.options.service.exit_without_certificate) {
            (Some(since), Some(most)) if since >= most => {
                let trouble = self.watches[0].trouble().map(|trouble| format!("; the last trouble: {trouble}"));
                let since = words(since);
                let why = format!("no valid certificate for {since}{}", trouble.unwrap_or_default());
                Err(Failure::Failed(why))
            }
            _ => Ok(()),
        }
    }

    /// What changes without telling us is looked at now and then.
    fn next_look(&self) -> Option<Duration> {
        let kubeconfig = (self.to_write && self.watches[0].is_in_place()).then_some(RETRY);
        let files = match &self.settings.serving {
            Serving::None => false,
            Serving::Rotated { addresses, .. } => addresses.may_change(),
            Serving::Files { .. } => true,
        };
        let expiry = self.options.service.exit_without_certificate.map(|most| most.min(LOOK));
        [kubeconfig, files.then_some(LOOK), expiry].into_iter().flatten().min()
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
fn held(options: &Run, common_name: &str) -> Result<(Option<Directory>, Option<Chain>), Failure> {
    if !Path::exists(&options.cert_dir) {
        return Ok((None, None));
    }
    let store = Directory::open(&options.cert_dir, &options.wanted.prefix).map_err(Failure::usage)?.of(common_name);
    let now = clock::now().unix;
    let loaded = store.recover(now).map_err(Failure::usage)?;
    loaded.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    let chain = loaded.credential.map(|(credential, _)| credential.chain().clone());
    Ok((Some(store), chain.filter(|chain| !chain.certificate().validity.expired(now))))
}
