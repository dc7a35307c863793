//! Reads the certificates in the CertificateSigningRequests of a cluster.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use perennial::{Validity, printable};
use perennial_kubernetes::client::{Call, Limits, Request};
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubeconfig::Kubeconfig;
use perennial_kubernetes::objects::{CSR_PATH, CertificateSigningRequest, ListMeta, Status};
use perennial_pki::{Chain, Roots};
use perennial_rotation::{Cancel, Identity};
use perennial_std::drive;
use serde::Deserialize;

use crate::Failure;

/// The objects on one page of a list: few enough for an answer of 4 MiB.
const PAGE: u32 = 250;

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    items: Vec<CertificateSigningRequest>,
}

/// The validity period of each certificate in a CertificateSigningRequest of the kubeconfig's cluster.
pub(super) fn read(kubeconfig: &Path) -> Result<Vec<Validity>, Failure> {
    let (cluster, identity) = connect(kubeconfig)?;
    let mut found = vec![];
    let mut page = String::new();
    loop {
        let list = list(&cluster, &identity, &page)?;
        for request in list.items {
            // An undecided request has no certificate, and a signer of another kind may issue one that is not X.509.
            if let Ok(chain) = Chain::from_pem(&request.status.certificate) {
                found.push(chain.certificate().validity);
            }
        }
        page = list.metadata.continue_;
        if page.is_empty() {
            break;
        }
    }
    if found.is_empty() {
        let why = "the cluster has no CertificateSigningRequest with a certificate; kube-controller-manager deletes them \
                   an hour after their approval, so use a CSV file or kubelet's metrics instead";
        return Err(Failure::failed(why));
    }
    Ok(found)
}

fn connect(path: &Path) -> Result<(Arc<Cluster>, Identity), Failure> {
    let unable = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(unable)?;
    let kubeconfig = Kubeconfig::parse(path, &text).map_err(Failure::usage)?;
    let selected = kubeconfig.select(None).map_err(Failure::usage)?;
    let read = &mut |path: &Path| fs::read(path);
    let endpoint = selected.cluster(read).map_err(Failure::usage)?;
    let identity = selected.identity(read).map_err(Failure::usage)?;
    let mut cluster = Cluster::from_url(&endpoint.server).map_err(Failure::usage)?;
    if let Some(pem) = &endpoint.ca_pem {
        let roots = Roots::from_pem(pem).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        cluster = cluster.with_roots(roots);
    } else if endpoint.insecure_skip_tls_verify {
        cluster = cluster.with_insecure_skip_tls_verify();
    }
    if let Some(name) = &endpoint.tls_server_name {
        cluster = cluster.with_tls_server_name(name).map_err(Failure::usage)?;
    }
    if let Some(proxy) = endpoint.proxy {
        cluster = cluster.with_proxy(proxy);
    }
    Ok((Arc::new(cluster), identity))
}

fn list(cluster: &Arc<Cluster>, identity: &Identity, page: &str) -> Result<List, Failure> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &PAGE.to_string());
    if !page.is_empty() {
        query.append_pair("continue", page);
    }
    let path = format!("{CSR_PATH}?{}", query.finish());
    let call = Call::new(Request::get(path), cluster.clone(), identity.clone(), Limits::default());
    let outcome = drive(call, &Cancel::default(), |_| {});
    let host = cluster.host();
    let response = outcome.ok_or_else(|| Failure::failed("the request was cancelled"))?;
    let response = response.map_err(|error| Failure::failed(format!("cannot list the requests of {host}: {error}")))?;
    if response.status != 200 {
        let status: Status = serde_json::from_slice(&response.body).unwrap_or_default();
        let message = printable(&status.message);
        let why = format!("{host} answers {} to the list of CertificateSigningRequests: {message}", response.status);
        return Err(Failure::failed(why));
    }
    serde_json::from_slice(&response.body).map_err(|error| {
        Failure::failed(format!("{host}: its list of CertificateSigningRequests cannot be read: {error}"))
    })
}
