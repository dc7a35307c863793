//! Who is asked, as whom, and for what.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_pki::{KeyAlgorithm, Roots, Usage};

use crate::client::Limits;
use crate::cluster::Cluster;
use crate::objects::{KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER};
use perennial_rotation::Identity;

/// Gives the identity to ask with, looked up anew for each request: a token file may have changed.
/// It is called on the loop, which stands still meanwhile: read a file, but do not go to the network.
pub type IdentitySource = Arc<dyn Fn() -> Result<Identity, String> + Send + Sync>;

/// As whom to ask.
#[derive(Clone)]
pub enum AskAs {
    /// With the certificate being rotated, while it is valid and accepted; else with a bootstrap identity.
    Own {
        /// For the first certificate, and when our own is of no use any more.
        bootstrap: Option<IdentitySource>,
    },
    /// Always with this one: for certificates that are not client certificates themselves.
    Other(IdentitySource),
}

impl fmt::Debug for AskAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own { bootstrap: Some(_) } => "Own { bootstrap: Some(..) }",
            Self::Own { bootstrap: None } => "Own { bootstrap: None }",
            Self::Other(_) => "Other(..)",
        })
    }
}

/// Who is asked, as whom, and for what kind of certificate.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The API server.
    pub cluster: Arc<Cluster>,
    /// As whom to ask.
    pub ask_as: AskAs,
    /// `spec.signerName`.
    pub signer_name: String,
    /// What the certificate is for.
    pub usage: Usage,
    /// `spec.usages`; `None`: a digital signature, the [`usage`](Self::usage), and key encipherment for an RSA key.
    pub usages: Option<Vec<String>>,
    /// `spec.expirationSeconds`: the lifetime wished for.
    pub expiration: Option<Duration>,
    /// What keys to generate.
    pub key_algorithm: KeyAlgorithm,
    /// If set, an issued certificate must lead to one of these.
    pub issuers: Option<Roots>,
    /// Accepts a certificate with URIs or, for [`Usage::ClientAuth`], organizations that were not asked for. Off: in
    /// Kubernetes an organization is a group, and a group has rights. For signers that add their own.
    pub accepts_extra_rights: bool,
    /// How far our clock may be ahead before an issued certificate counts as expired. An hour: the servers it is for go by
    /// the signer's clock, more or less. One that is not valid yet is kept until it is.
    pub skew: Duration,
    /// Bounds of one exchange.
    pub limits: Limits,
}

impl Signer {
    /// The signer of kubelets' client certificates, asked with the certificate itself once there is one.
    pub fn kubelet_client(cluster: Arc<Cluster>, bootstrap: Option<IdentitySource>) -> Self {
        Self {
            cluster,
            ask_as: AskAs::Own { bootstrap },
            signer_name: KUBELET_CLIENT_SIGNER.into(),
            usage: Usage::ClientAuth,
            usages: None,
            expiration: None,
            key_algorithm: KeyAlgorithm::default(),
            issuers: None,
            accepts_extra_rights: false,
            skew: Duration::from_secs(3600),
            limits: Limits::default(),
        }
    }

    /// The signer of kubelets' serving certificates, asked as somebody who is a node already.
    pub fn kubelet_serving(cluster: Arc<Cluster>, node: IdentitySource) -> Self {
        Self {
            ask_as: AskAs::Other(node),
            signer_name: KUBELET_SERVING_SIGNER.into(),
            usage: Usage::ServerAuth,
            ..Self::kubelet_client(cluster, None)
        }
    }

    pub(super) fn usages(&self) -> Vec<String> {
        if let Some(usages) = &self.usages {
            return usages.clone();
        }
        let purpose = match self.usage {
            Usage::ClientAuth => "client auth",
            Usage::ServerAuth => "server auth",
        };
        // RSA keys may be used as TLS 1.2 uses them, too.
        let more = (self.key_algorithm == KeyAlgorithm::Rsa).then_some("key encipherment");
        ["digital signature"].into_iter().chain(more).chain([purpose]).map(Into::into).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_follow_from_purpose_and_kind_of_key() {
        let cluster = Arc::new(Cluster::from_url("https://api.example").unwrap());
        let client = Signer::kubelet_client(cluster.clone(), None);
        assert_eq!(client.usages(), ["digital signature", "client auth"]);
        let rsa = Signer { key_algorithm: KeyAlgorithm::Rsa, ..client.clone() };
        assert_eq!(rsa.usages(), ["digital signature", "key encipherment", "client auth"]);
        let serving = Signer::kubelet_serving(cluster, Arc::new(|| Ok(Identity::Anonymous)));
        assert_eq!(serving.usages(), ["digital signature", "server auth"]);
        let said = Signer { usages: Some(vec!["client auth".into()]), ..client };
        assert_eq!(said.usages(), ["client auth"]);
    }
}
