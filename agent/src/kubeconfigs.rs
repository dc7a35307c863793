//! The node's kubeconfig and the bootstrap one: which cluster, as whom at first, and what is to be written.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use perennial_kubernetes::cluster::{Cluster, Identity, Token};
use perennial_kubernetes::kubeconfig::{Credentials, Endpoint, Kubeconfig, KubeconfigError, node_kubeconfig};
use perennial_kubernetes::rotation::IdentitySource;
use perennial_pki::Roots;
use perennial_std::clock;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::files;

/// What the kubeconfigs say.
pub(crate) struct Access {
    pub(crate) endpoint: Endpoint,
    pub(crate) cluster: Arc<Cluster>,
    /// As whom to ask while there is no certificate to ask with.
    pub(crate) bootstrap: IdentitySource,
    /// The node's kubeconfig has to be written once there is a certificate.
    pub(crate) write: bool,
}

/// Reads both. `needed`: there is no valid certificate, so the first request depends on what they say.
///
/// kubelet's rules: the cluster is the node's kubeconfig's, if there is one; so is the user of the
/// first request, unless there is a bootstrap kubeconfig. A usable kubeconfig is left alone.
pub(crate) fn read(node: &Path, bootstrap: Option<&Path>, needed: bool) -> Result<Access, Failure> {
    let usable = match load(node).map_err(Failure::Usage)? {
        Some(kubeconfig) => Some(is_usable(&kubeconfig).map_err(Failure::usage)?),
        None => None,
    };
    let bootstrap_exists = bootstrap.map(exists).transpose()?.unwrap_or(false);
    let primary = match (usable, bootstrap) {
        (Some(_), _) => node,
        (None, Some(path)) if bootstrap_exists => path,
        (None, Some(path)) => return Err(Failure::Usage(neither(node, path))),
        (None, None) => return Err(Failure::Usage(nothing_to_begin_with(node))),
    };
    let endpoint = endpoint(primary).map_err(Failure::Usage)?;
    let cluster = cluster(&endpoint).map_err(|why| Failure::Usage(format!("{}: {why}", primary.display())))?;

    // kubeadm removes the bootstrap kubeconfig once a node has joined.
    let first = bootstrap.filter(|_| bootstrap_exists).unwrap_or(node).to_owned();
    match identity(&first) {
        Err(why) if needed => {
            let missing = bootstrap.filter(|_| !bootstrap_exists);
            let missing = missing.map(|path| format!(", and {} does not exist", path.display())).unwrap_or_default();
            let advice = "there is no valid certificate yet, so the first request depends on it";
            return Err(Failure::Usage(format!("{why}; {advice}{missing}")));
        }
        Err(why) if bootstrap_exists => tracing::warn!("not needed now, but it could not be used: {why}"),
        Ok(_) | Err(_) => {}
    }
    let write = match usable {
        Some(usable) => bootstrap_exists && !usable,
        None => true,
    };
    let bootstrap: IdentitySource = Arc::new(move || identity(&first));
    Ok(Access { endpoint, cluster: Arc::new(cluster), bootstrap, write })
}

/// What cannot be seen is not known to be missing.
fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|error| Failure::Usage(format!("{}: cannot be read: {error}", path.display())))
}

/// Makes sure that the node's kubeconfig can be written when there is a certificate to point at.
pub(crate) fn make_room(path: &Path, current: &Path) -> Result<(), Failure> {
    if current.to_str().is_none() {
        let why = "a kubeconfig can only point at names that are UTF-8; choose another --cert-dir";
        return Err(Failure::Usage(format!("{}: {why}", current.display())));
    }
    let directory = files::parent(path);
    let cannot = |error: io::Error| Failure::Usage(format!("cannot create {}: {error}", directory.display()));
    files::create_directory(directory).map_err(cannot)?;
    files::probe(path).map_err(|error| Failure::Usage(format!("cannot write {}: {error}", path.display())))
}

/// Writes the node's kubeconfig: it points at the certificate that rotation keeps current.
pub(crate) fn write(path: &Path, endpoint: &Endpoint, current: &Path) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let ca_file = endpoint.ca_file.as_ref().map(std::path::absolute).transpose().map_err(cannot)?;
    let endpoint = Endpoint { ca_file, ..endpoint.clone() };
    files::replace(path, node_kubeconfig(&endpoint, current).as_bytes()).map_err(cannot)
}

/// The kubeconfig at `path`; `None` if there is none.
fn load(path: &Path) -> Result<Option<Kubeconfig>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: cannot be read: {error}", path.display())),
    };
    Kubeconfig::parse(path, &text).map(Some).map_err(|error| error.to_string())
}

fn load_existing(path: &Path) -> Result<Kubeconfig, String> {
    load(path)?.ok_or_else(|| format!("{}: there is no such file", path.display()))
}

/// Whether its user can be one: kubelet's test, and then some. What a person has to repair is an error.
fn is_usable(kubeconfig: &Kubeconfig) -> Result<bool, KubeconfigError> {
    match kubeconfig.select(None)?.identity(&mut |path| fs::read(path)) {
        Ok(Credentials::Anonymous) => Ok(false),
        Ok(Credentials::Token(_)) => Ok(true),
        Ok(Credentials::Certificate(credential)) => {
            let (validity, now) = (credential.chain().certificate().validity, clock::now().unix);
            Ok(validity.not_before() <= now && !validity.expired(now))
        }
        // It points at a certificate that is yet to come.
        Err(KubeconfigError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn endpoint(path: &Path) -> Result<Endpoint, String> {
    let kubeconfig = load_existing(path)?;
    let selected = kubeconfig.select(None).map_err(|error| error.to_string())?;
    selected.cluster(&mut |path| fs::read(path)).map_err(|error| error.to_string())
}

fn cluster(endpoint: &Endpoint) -> Result<Cluster, String> {
    let mut cluster = Cluster::from_url(&endpoint.server).map_err(|error| error.to_string())?;
    match &endpoint.ca_pem {
        Some(pem) => cluster = cluster.with_roots(Roots::from_pem(pem).map_err(|error| error.to_string())?),
        None if endpoint.insecure_skip_tls_verify => {
            tracing::warn!("insecure-skip-tls-verify: whoever answers as {} is trusted", endpoint.server);
            cluster = cluster.with_insecure_skip_tls_verify();
        }
        None => {
            return Err("the cluster has no certificate-authority or certificate-authority-data; \
                        the server could not be told from an impostor"
                .into());
        }
    }
    if let Some(proxy) = &endpoint.proxy {
        cluster = cluster.with_proxy(proxy.clone());
    }
    match &endpoint.tls_server_name {
        Some(name) => cluster.with_tls_server_name(name).map_err(|error| error.to_string()),
        None => Ok(cluster),
    }
}

/// The user of the kubeconfig at `path`, read anew, with all files it names.
pub(crate) fn identity(path: &Path) -> Result<Identity, String> {
    let kubeconfig = load_existing(path)?;
    let selected = kubeconfig.select(None).map_err(|error| error.to_string())?;
    let credentials = selected.identity(&mut |path| fs::read(path)).map_err(|error| error.to_string())?;
    let bad = |why: String| format!("{}: {why}", path.display());
    match credentials {
        Credentials::Anonymous => Err(bad("its user has neither a token nor a client certificate".into())),
        Credentials::Token(token) => Token::new(&token).map(Identity::Token).map_err(|error| bad(error.to_string())),
        Credentials::Certificate(credential) => {
            let validity = credential.chain().certificate().validity;
            if validity.expired(clock::now().unix) {
                return Err(bad(format!("the certificate of its user has expired at {}", validity.not_after())));
            }
            Ok(Identity::Certificate(credential))
        }
    }
}

fn neither(node: &Path, bootstrap: &Path) -> String {
    format!(
        "neither {} nor {} exists: one of them has to say which cluster to ask, and as whom",
        node.display(),
        bootstrap.display()
    )
}

fn nothing_to_begin_with(node: &Path) -> String {
    format!(
        "{} does not exist: give --bootstrap-kubeconfig, a kubeconfig with a bootstrap token or another \
         credential for the first request; {} is written once there is a certificate",
        node.display(),
        node.display()
    )
}
