//! The API server that a kubeconfig names, with its CAs and proxy.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_kubernetes::cluster::{Cluster, TrustSource};
use perennial_kubernetes::kubeconfig::Endpoint;
use perennial_pki::Roots;
use serde_json::{Value, json};

use crate::cli::Proxy;
use crate::files;
use crate::proxies::{self, Route};
use crate::trust::{self, Origin};

/// An API server with the kubeconfig that names it, the CAs that verify it, and the proxy to the server. Text and JSON
/// of the server leave out credentials in the URL of a proxy.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) cluster: Arc<Cluster>,
    kubeconfig: PathBuf,
    /// The source of the CAs, for JSON: `file`, `inline`, `system` or `insecure`.
    ca_source: &'static str,
    /// The source of the CAs and the time of their last read, as text.
    origin: Origin,
    /// The field, flag or variable that decides about the proxy.
    proxy_decided_by: &'static str,
    /// Reads the CAs for a connection; `None` if the kubeconfig contains the CAs, or the server is not verified.
    trust_source: Option<TrustSource>,
}

impl Server {
    /// Creates the server at `endpoint`, which the kubeconfig at the path `kubeconfig` names. Logs the proxy, if there
    /// is one, and if the kubeconfig names no CA or switches verification off.
    ///
    /// # Errors
    /// If a field of the kubeconfig, or the proxy in the environment, cannot be used. The error does not name the
    /// kubeconfig.
    pub(super) fn of(kubeconfig: &Path, endpoint: &Endpoint, proxy: Proxy) -> Result<Self, String> {
        let cluster = Cluster::from_url(&endpoint.server).map_err(|error| error.to_string())?;
        let (cluster, trust_source, ca_source, origin) = anchored(cluster, kubeconfig, endpoint)?;
        let Route { proxy, decided_by } = route(endpoint, proxy, &cluster)?;
        let cluster = match proxy {
            Some(proxy) => {
                tracing::info!("connecting to {} through the proxy {proxy} ({decided_by})", endpoint.server);
                cluster.with_proxy(proxy)
            }
            None => cluster,
        };
        let cluster = match &endpoint.tls_server_name {
            Some(name) => cluster.with_tls_server_name(name).map_err(|error| error.to_string())?,
            None => cluster,
        };
        let (cluster, kubeconfig) = (Arc::new(cluster), kubeconfig.to_owned());
        Ok(Self { cluster, kubeconfig, ca_source, origin, proxy_decided_by: decided_by, trust_source })
    }

    /// Reads the CAs as a connection would, so that [`lines`](Self::lines) and [`to_json`](Self::to_json) show their
    /// state.
    pub(crate) fn read_cas(&self) {
        // An error needs no handling here: the source has noted it in `self.origin`, which `lines` and `to_json` show.
        let _ = self.trust_source.as_ref().map(|source| source());
    }

    fn proxy(&self) -> Option<String> {
        self.cluster.proxy().map(ToString::to_string)
    }

    /// The fields of the server in the JSON of `status` and `/state`.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "url": self.cluster.to_string(),
            "kubeconfig": self.kubeconfig.display().to_string(),
            "checked_against": self.ca_source,
            "ca": self.origin.get(),
            "proxy": self.proxy(),
            "proxy_from": self.proxy_decided_by,
        })
    }

    /// Names and values of the server for `status`.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let proxy = self.proxy().unwrap_or_else(|| "none".into());
        vec![
            ("server", self.cluster.to_string()),
            ("kubeconfig", self.kubeconfig.display().to_string()),
            ("CAs", self.origin.get()),
            ("proxy", format!("{proxy} ({})", self.proxy_decided_by)),
        ]
    }
}

/// The cluster with its CAs, and the server's `trust_source`, `ca_source` and `origin`.
type Anchored = (Cluster, Option<TrustSource>, &'static str, Origin);

/// Adds the CAs to the cluster: from a file, from the kubeconfig, or the system's.
fn anchored(cluster: Cluster, kubeconfig: &Path, endpoint: &Endpoint) -> Result<Anchored, String> {
    let from = |cluster: Cluster, (source, origin): (TrustSource, Origin), ca_source| {
        (cluster.with_trust_source(source.clone()), Some(source), ca_source, origin)
    };
    let Some(pem) = &endpoint.ca_pem else {
        let server = &endpoint.server;
        if endpoint.insecure_skip_tls_verify {
            tracing::warn!(
                "insecure-skip-tls-verify is set: the certificate of {server} is not verified, \
                 any server can pass for it"
            );
            let origin = Origin::new("none: insecure-skip-tls-verify is set, any server is trusted".into());
            return Ok((cluster.with_insecure_skip_tls_verify(), None, "insecure", origin));
        }
        tracing::info!(
            "the kubeconfig has no certificate-authority: verifying {server} with the system's CA certificates"
        );
        return Ok(from(cluster, trust::of_system(), "system"));
    };
    let roots = Roots::from_pem(pem).map_err(|error| error.to_string())?;
    let file = endpoint.ca_file.as_deref();
    files::warn_of_skipped(file.unwrap_or_else(|| Path::new("certificate-authority-data")), roots.skipped());
    Ok(match file {
        Some(file) => from(cluster, trust::of_file(file.to_owned(), pem.clone(), roots), "file"),
        None => {
            let origin = Origin::new(format!("certificate-authority-data in {}", kubeconfig.display()));
            (cluster.with_roots(roots), None, "inline", origin)
        }
    })
}

/// Chooses the proxy to the API server by proxy-url in the kubeconfig, else by `--proxy=none`, else by the environment,
/// as client-go does.
fn route(endpoint: &Endpoint, proxy: Proxy, cluster: &Cluster) -> Result<Route, String> {
    match (&endpoint.proxy, proxy) {
        (Some(named), _) => Ok(Route { proxy: Some(named.clone()), decided_by: "proxy-url" }),
        (None, Proxy::Environment) => proxies::from_environment(|name| env::var(name).ok(), cluster),
        (None, Proxy::None) => Ok(Route { proxy: None, decided_by: "--proxy=none" }),
    }
}
