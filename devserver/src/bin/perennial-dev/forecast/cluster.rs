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

use super::read::Newest;
use crate::Failure;

/// The objects on one page of a list: few enough for an answer of 4 MiB.
const PAGE: u32 = 250;

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    items: Vec<CertificateSigningRequest>,
}

/// The validity period of each certificate in the CertificateSigningRequests of the kubeconfig's cluster. Of several
/// certificates from one signer with the same names and usages, which replace each other, only the newest counts.
pub(super) fn read(kubeconfig: &Path) -> Result<Vec<Validity>, Failure> {
    let (cluster, identity) = connect(kubeconfig)?;
    let mut newest = Newest::default();
    let mut page = String::new();
    loop {
        let list = list(&cluster, &identity, &page)?;
        list.items.iter().for_each(|request| add(&mut newest, request));
        page = list.metadata.continue_;
        if page.is_empty() {
            break;
        }
    }
    let found = newest.into_validities();
    if found.is_empty() {
        let why = "the cluster has no CertificateSigningRequest with a certificate; kube-controller-manager deletes them \
                   an hour after their approval, so use a CSV file or kubelet's metrics instead";
        return Err(Failure::failed(why));
    }
    Ok(found)
}

/// Adds the certificate of a request. An undecided request has none, and a signer of another kind may issue one that is
/// not X.509.
fn add(newest: &mut Newest, request: &CertificateSigningRequest) {
    let Ok(chain) = Chain::from_pem(&request.status.certificate) else { return };
    let certificate = chain.certificate();
    let mut usages = request.spec.usages.clone();
    usages.sort();
    let purpose = [request.spec.signer_name.clone(), usages.join(","), certificate.names.to_string()];
    newest.add(purpose, certificate.validity);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perennial::UnixTime;
    use perennial_dev::{Authority, Random};

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_767_225_600);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn newest_certificate_of_each_name_and_purpose_counts() {
        let mut random = Random::from_seed([1; 32]);
        let authority = Authority::generate(&mut random, NOW, DAY * 365).unwrap();
        let mut request = |name: &str, signer: &str, usage: &str, lifetime| {
            let pair = authority.client_credential(name, &[], &mut random, NOW, lifetime).unwrap();
            let mut request = CertificateSigningRequest::default();
            request.spec.signer_name = signer.into();
            request.spec.usages = vec!["digital signature".into(), usage.into()];
            request.status.certificate = pair.chain().pem().into_bytes();
            request
        };
        let mut newest = Newest::default();
        for (name, signer, usage, days) in [
            ("a", "example.com/mesh", "client auth", 2),
            ("a", "example.com/mesh", "client auth", 3),
            ("a", "example.com/mesh", "client auth", 1),
            ("b", "example.com/mesh", "client auth", 4),
            ("a", "example.com/mesh", "server auth", 5),
            ("a", "example.com/web", "client auth", 6),
        ] {
            add(&mut newest, &request(name, signer, usage, DAY * days));
        }
        add(&mut newest, &CertificateSigningRequest::default());
        // A certificate of a day or more ends five minutes early, as one of kube-controller-manager.
        let days = |found: &Validity| found.not_after().after(DAY / 24).since(NOW).as_secs() / 86_400;
        let mut days: Vec<_> = newest.into_validities().iter().map(days).collect();
        days.sort_unstable();
        assert_eq!(days, [3, 4, 5, 6]);
    }
}
