//! A complete configuration: flags, files and the certificate directory, read and checked.

use std::path::PathBuf;
use std::sync::Arc;

use perennial_pki::Chain;
use perennial_rotation::clock;
use perennial_rotation::{Directory, DirectoryError, IdentitySource, NotYet};
use serde_json::{Value, json};

use super::external_cert::ExternalCert;
use super::settings::{ClientSettings, ServingSettings, Settings};
use crate::cli::{Run, SERVING_PREFIX};
use crate::failure::Failure;
use crate::kubeconfigs::{self, Access};
use crate::remedies::remedy;
use crate::report;

/// The prefix of nodes' common names.
const NODE: &str = "system:node:";

/// A complete configuration, from which rotations can be started or reloaded.
pub(super) struct Prepared {
    pub(super) settings: Settings,
    pub(super) access: Access,
    pub(super) stores: Stores,
    /// The serving certificate, if it is externally managed.
    pub(super) external: Option<ExternalCert>,
    /// The client certificate; `None` if there is no valid one.
    held: Option<Chain>,
    /// The link to the current client certificate, as an absolute path.
    pub(super) current: PathBuf,
}

/// The credential directories. A reload hands them to the next configuration, so that their locks stay held.
#[derive(Clone)]
pub(super) struct Stores {
    pub(super) client: Arc<Directory>,
    /// The directory of the serving certificate; `None` unless perennial rotates one.
    pub(super) serving: Option<Arc<Directory>>,
}

impl Prepared {
    /// Reads the configuration for a start. Changes no file, and takes no lock.
    ///
    /// # Errors
    /// [`Failure::Usage`] for input that a run cannot start with.
    pub(super) fn read(options: &Run) -> Result<Self, Failure> {
        let settings = Settings::read(options)?;
        let client = directory(options, &options.wanted.prefix)?;
        let held = valid_in(&client, &settings.client)?;
        Self::new(options, settings, Stores { client, serving: None }, held)
    }

    /// Reads the configuration again, for a reload. Changes no file. `held` is the current client certificate, if
    /// valid.
    ///
    /// # Errors
    /// [`Failure::Usage`] for input that a run cannot continue with. The caller then keeps the present configuration
    /// (`self`).
    pub(super) fn read_again(&self, options: &Run, held: Option<Chain>) -> Result<Self, Failure> {
        let mut next = Self::new(options, Settings::read(options)?, self.stores.clone(), held)?;
        if next.requests_like(self) {
            // Kept, because the rotations use this server: `/state` shows the CAs that they read last.
            next.access.server = self.access.server.clone();
        }
        Ok(next)
    }

    fn new(options: &Run, settings: Settings, stores: Stores, held: Option<Chain>) -> Result<Self, Failure> {
        // A certificate with another common name does not authenticate requests.
        let name = settings.client.template.common_name();
        let held = held.filter(|held| !settings.client.rotated || held.certificate().common_name() == name);
        let access = read_access(options, &settings, held.is_some())?;
        let (mut external, mut serving) = (None, None);
        match &settings.serving {
            ServingSettings::None => {}
            ServingSettings::Files { certificate, key } => external = Some(ExternalCert::open(certificate, key)?),
            ServingSettings::Rotated { .. } => {
                serving = Some(stores.serving.map_or_else(|| directory(options, SERVING_PREFIX), Ok)?);
            }
        }
        let stores = Stores { serving, ..stores };
        let current = std::path::absolute(stores.client.current()).map_err(Failure::usage)?;
        if access.write {
            kubeconfigs::make_room(options.kubeconfig(), &current)?;
        }
        Ok(Self { settings, access, stores, external, held, current })
    }

    /// Locks the directories of all rotated certificates. If one of them cannot be locked, locks none. In a start, this
    /// is the first step that changes a directory, and the last step that can fail for bad usage.
    ///
    /// # Errors
    /// [`Failure::Usage`] if another process holds a lock, or a directory cannot be used.
    pub(super) fn claim(&self) -> Result<(), Failure> {
        let client = self.settings.client.rotated.then_some(&self.stores.client);
        let rotated = || client.into_iter().chain(&self.stores.serving);
        // Both locks are checked first: if one is not free, the directory of the other must stay as it is.
        let claimed = rotated().try_for_each(|store| store.is_free());
        claimed.and_then(|()| rotated().try_for_each(|store| store.claim())).map_err(|error| {
            Failure::Usage(match remedy_of(&error) {
                Some(remedy) => format!("{error}; {remedy}"),
                None => error.to_string(),
            })
        })
    }

    /// True if `other` requests the client certificate from the same API server, with the same names and checks.
    pub(super) fn requests_like(&self, other: &Self) -> bool {
        self.access.endpoint == other.access.endpoint && self.settings.client == other.settings.client
    }

    /// Describes the configuration: fields of the events `started` and `reloaded`, and a sentence for the log.
    pub(super) fn describe(&self, options: &Run) -> (Value, String) {
        let Self { settings, access, held, .. } = self;
        let (client, cluster) = (&settings.client, &access.server.cluster);
        let identity = client.template.common_name();
        let node = identity.strip_prefix(NODE);
        let fields = json!({
            "runtime": options.runtime.name(),
            "node": node,
            "common_name": identity,
            "server": cluster.to_string(),
            "proxy": cluster.proxy().map(ToString::to_string),
            "certificate": held.as_ref().map(report::certificate),
        });
        let what = match node {
            Some(node) => format!("the client certificate of node {node}"),
            None => format!("the certificate of {identity}"),
        };
        let observes = format!("observing {what}, which another program rotates");
        let does = match (client.rotated, self.stores.serving.is_some()) {
            (true, true) => format!("rotating {what} and its serving certificate, API server {cluster}"),
            (true, false) => format!("rotating {what}, API server {cluster}"),
            (false, true) => format!("{observes}, and rotating its serving certificate, API server {cluster}"),
            (false, false) => observes,
        };
        (fields, does)
    }
}

/// The certificate directory for files with this prefix, not locked.
fn directory(options: &Run, prefix: &str) -> Result<Arc<Directory>, Failure> {
    Directory::at(&options.cert_dir, prefix).map(Arc::new).map_err(Failure::usage)
}

/// Reads the kubeconfigs. `held` is true if there is a valid client certificate. A kubeconfig must have a usable
/// credential if perennial rotates the client certificate, and there is no valid one or API servers do not accept it as
/// an identity.
fn read_access(options: &Run, settings: &Settings, held: bool) -> Result<Access, Failure> {
    let client = &settings.client;
    let needed = client.rotated && !(held && client.is_identity);
    let access =
        kubeconfigs::read(options.kubeconfig(), options.bootstrap_kubeconfig.as_deref(), options.proxy, needed)?;
    let name = client.template.common_name();
    let bootstrap = match client.is_identity && name.starts_with(NODE) {
        true => not_of_another_node(name, access.bootstrap),
        false => access.bootstrap,
    };
    if needed {
        bootstrap.identity().map_err(|why| Failure::Usage(why.to_string()))?;
    }
    Ok(Access { write: access.write && client.rotated && client.is_identity, bootstrap, ..access })
}

/// Wraps `source` so that it returns an error in the place of a certificate of another node. With such a certificate
/// the API server would deny the request, since a node may only request its own certificate.
fn not_of_another_node(name: &str, source: Arc<dyn IdentitySource>) -> Arc<dyn IdentitySource> {
    let name = name.to_owned();
    Arc::new(move || {
        let identity = source.identity()?;
        let shown = identity.certificate().map(|credential| credential.chain().certificate().common_name());
        match shown.filter(|shown| shown.starts_with(NODE) && **shown != name) {
            None => Ok(identity),
            Some(shown) => Err(NotYet::new(format!(
                "the certificate that the kubeconfig names is for {shown:?}, not for {name:?}: check --node-name and \
                 --hostname-override; to make this machine another node, give a bootstrap kubeconfig"
            ))),
        }
    })
}

/// Reads the client certificate in the directory; `None` if there is no valid one.
fn valid_in(store: &Directory, client: &ClientSettings) -> Result<Option<Chain>, Failure> {
    let now = clock::now().unix;
    let loaded = match client.rotated {
        true => store.load_settled(Some(client.template.common_name()), now),
        false => store.load(None, now),
    };
    let chain = loaded.map_err(Failure::usage)?.credential.map(|(credential, _)| credential.chain().clone());
    Ok(chain.filter(|chain| !chain.certificate().validity.expired(now)))
}

fn remedy_of(error: &DirectoryError) -> Option<&'static str> {
    matches!(error, DirectoryError::MountPoint { .. }).then(|| remedy(error, false))
}
