//! The API server that a kubeconfig names, with its CAs and proxy.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubeconfig::Endpoint;
use perennial_pki::Roots;
use perennial_rotation::RootFiles;
use serde_json::{Value, json};

use crate::cli::Proxy;
use crate::files;
use crate::proxies::{self, Route};
use crate::trust::{Inline, System};

/// An API server with the kubeconfig that names it, the CAs that verify it, and the proxy to the server. Text and JSON
/// of the server leave out credentials in the URL of a proxy.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) cluster: Arc<Cluster>,
    kubeconfig: PathBuf,
    /// The source of the CAs, for JSON: `file`, `inline`, `system` or `insecure`.
    ca_source: &'static str,
    /// The kubeconfig field, flag or environment variable that decided which proxy is used, or the reason why none did.
    proxy_decided_by: &'static str,
}

impl Server {
    /// Creates the server at `endpoint`, which the kubeconfig at the path `kubeconfig` names. Logs which proxy is used,
    /// if any. Also logs if the system's CAs are used because the kubeconfig names no CA, and if the kubeconfig
    /// switches verification off.
    ///
    /// # Errors
    /// If a field of the kubeconfig, or the proxy in the environment, cannot be used. The error does not name the
    /// kubeconfig.
    pub(crate) fn of(kubeconfig: &Path, endpoint: &Endpoint, proxy: Proxy) -> Result<Self, String> {
        let cluster = Cluster::from_url(&endpoint.server).map_err(|error| error.to_string())?;
        let (cluster, ca_source) = anchored(cluster, kubeconfig, endpoint)?;
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
        Ok(Self { cluster, kubeconfig, ca_source, proxy_decided_by: decided_by })
    }

    /// Lets requests with one identity share connections to this server.
    pub(crate) fn with_kept_connections(self) -> Self {
        let cluster = Arc::unwrap_or_clone(self.cluster).with_kept_connections();
        Self { cluster: Arc::new(cluster), ..self }
    }

    /// The kubeconfig that names the server.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Reads the CAs as a connection would. From then on, [`lines`](Self::lines) and [`to_json`](Self::to_json) show
    /// the result of this read.
    pub(crate) fn read_cas(&self) {
        // An error needs no handling here: the source has noted it in the origin, which `lines` and `to_json` show.
        let _ = self.cluster.roots().map(|source| source.roots());
    }

    /// The source of the CAs and the time of their last read, as text.
    fn origin(&self) -> String {
        let unverified = || "none: insecure-skip-tls-verify is set, any server is trusted".to_owned();
        self.cluster.roots().map_or_else(unverified, |source| source.origin())
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
            "ca": self.origin(),
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
            ("CAs", self.origin()),
            ("proxy", format!("{proxy} ({})", self.proxy_decided_by)),
        ]
    }
}

/// Adds to the cluster the CAs that verify the server: from a file, from the kubeconfig itself, or the system's.
/// Returns the cluster, and the source of the CAs (`ca_source`).
fn anchored(cluster: Cluster, kubeconfig: &Path, endpoint: &Endpoint) -> Result<(Cluster, &'static str), String> {
    let Some(pem) = &endpoint.ca_pem else {
        let server = &endpoint.server;
        if endpoint.insecure_skip_tls_verify {
            tracing::warn!(
                "insecure-skip-tls-verify is set: the certificate of {server} is not verified, \
                 any server can pass for it"
            );
            return Ok((cluster.with_insecure_skip_tls_verify(), "insecure"));
        }
        tracing::info!(
            "the kubeconfig has no certificate-authority: verifying {server} with the system's CA certificates"
        );
        return Ok((cluster.with_roots(System::new()), "system"));
    };
    if let Some(file) = &endpoint.ca_file {
        // Read anew for each connection: connections are rare, and the next one should see a new CA.
        let files = RootFiles::open([file]).map_err(|error| error.to_string())?.every(Duration::ZERO);
        return Ok((cluster.with_roots(files), "file"));
    }
    let roots = Roots::from_pem(pem).map_err(|error| error.to_string())?;
    files::warn_of_skipped(Path::new("certificate-authority-data"), roots.skipped());
    let origin = format!("certificate-authority-data in {}", kubeconfig.display());
    Ok((cluster.with_roots(Inline { roots, origin }), "inline"))
}

/// Chooses the proxy to the API server. proxy-url in the kubeconfig takes precedence over `--proxy=none`, and that flag
/// over the environment. In client-go, too, proxy-url takes precedence over the environment.
fn route(endpoint: &Endpoint, proxy: Proxy, cluster: &Cluster) -> Result<Route, String> {
    match (&endpoint.proxy, proxy) {
        (Some(named), _) => Ok(Route { proxy: Some(named.clone()), decided_by: "proxy-url" }),
        (None, Proxy::Environment) => proxies::from_environment(|name| env::var(name).ok(), cluster),
        (None, Proxy::None) => Ok(Route { proxy: None, decided_by: "--proxy=none" }),
    }
}
