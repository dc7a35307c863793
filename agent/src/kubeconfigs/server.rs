//! The API server of a kubeconfig, ready to be connected to.

use std::path::Path;

use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubeconfig::Endpoint;
use perennial_pki::Roots;

use crate::cli::Proxy;
use crate::{files, proxies, trust};

pub(super) fn cluster(endpoint: &Endpoint, proxy: Proxy) -> Result<Cluster, String> {
    let mut cluster = Cluster::from_url(&endpoint.server).map_err(|error| error.to_string())?;
    match &endpoint.ca_pem {
        Some(pem) => {
            let roots = Roots::from_pem(pem).map_err(|error| error.to_string())?;
            let file = endpoint.ca_file.as_deref().unwrap_or_else(|| Path::new("certificate-authority-data"));
            files::warn_of_skipped(file, roots.skipped());
            cluster = match &endpoint.ca_file {
                Some(file) => cluster.with_trust_source(trust::of_file(file.clone(), pem.clone(), roots)),
                None => cluster.with_roots(roots),
            };
        }
        None if endpoint.insecure_skip_tls_verify => {
            tracing::warn!("insecure-skip-tls-verify: whoever answers as {} is trusted", endpoint.server);
            cluster = cluster.with_insecure_skip_tls_verify();
        }
        None => {
            tracing::info!(
                "no certificate-authority is named: {} is checked against the system's CA certificates",
                endpoint.server
            );
            cluster = cluster.with_trust_source(trust::of_system());
        }
    }
    let proxied = match (&endpoint.proxy, proxy) {
        (Some(named), _) => Some((named.clone(), "proxy-url")),
        (None, Proxy::Environment) => proxies::from_environment(|name| std::env::var(name).ok(), &cluster)?,
        (None, Proxy::None) => None,
    };
    if let Some((proxy, from)) = proxied {
        tracing::info!("{} is reached through the proxy {proxy} ({from})", endpoint.server);
        cluster = cluster.with_proxy(proxy);
    }
    match &endpoint.tls_server_name {
        Some(name) => cluster.with_tls_server_name(name).map_err(|error| error.to_string()),
        None => Ok(cluster),
    }
}
