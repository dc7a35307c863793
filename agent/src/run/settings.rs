//! Reads the settings of `perennial run`: flags and kubelet's configuration file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial::{Policy, Template};
use perennial_kubernetes::CsrSigner;
use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubelet_config::KubeletConfig;
use perennial_kubernetes::objects::{CLIENT_SIGNER, KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER};
use perennial_pki::{Roots, Usage};
use perennial_rotation::{Authentication, IdentitySource, Profile, Signer};

use super::addresses::Addresses;
use super::node::NodeIdentity;
use super::node_name;
use crate::cli::Run;
use crate::failure::Failure;
use crate::files;
use crate::patience;

/// The settings of `perennial run`, from flags and kubelet's configuration file.
pub(super) struct Settings {
    pub(super) policy: Policy,
    pub(super) client: ClientSettings,
    pub(super) serving: ServingSettings,
}

/// Settings of the first certificate: a node's client certificate or, with other flags, any certificate of any signer.
#[derive(PartialEq)]
pub(super) struct ClientSettings {
    pub(super) template: Template,
    /// True if perennial rotates the certificate. If false, another program does, and perennial only observes the
    /// certificate.
    pub(super) rotated: bool,
    /// True if API servers accept the certificate as an identity. The certificate then authenticates its own rotation,
    /// and a kubeconfig may name it.
    pub(super) is_identity: bool,
    usages: Vec<Usage>,
    issuers: Option<Roots>,
}

/// Settings of the serving certificate.
#[derive(PartialEq)]
pub(super) enum ServingSettings {
    /// No serving certificate is rotated or observed.
    None,
    /// perennial rotates the serving certificate.
    Rotated { node: String, addresses: Addresses },
    /// The serving certificate is externally managed.
    Files { certificate: PathBuf, key: PathBuf },
}

impl Settings {
    /// Reads the settings from the flags and the files that they name. Changes no file.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the name of the flag or file that cannot be used.
    pub(super) fn read(options: &Run) -> Result<Self, Failure> {
        let config = match &options.config {
            Some(path) => read_config(path)?,
            None => KubeletConfig::default(),
        };
        let which = &options.which;
        let serving = which.rotate_server_certificates.or(config.server_tls_bootstrap).unwrap_or(false);
        let node = match &options.wanted.common_name {
            Some(_) if !serving => None,
            _ => Some(node_name::resolve(options.node_name.as_deref())?),
        };
        let files = which.tls_cert_file.clone().zip(which.tls_private_key_file.clone());
        let files = files.or_else(|| config.tls_cert_file.zip(config.tls_private_key_file));
        let serving = match (serving, files, &node) {
            // Rotation has precedence over files, as in a kubelet with both serverTLSBootstrap and tlsCertFile.
            (true, _, Some(node)) => ServingSettings::Rotated { node: node.clone(), addresses: Addresses::of(which)? },
            (_, Some((certificate, key)), _) => ServingSettings::Files { certificate, key },
            _ => ServingSettings::None,
        };
        let rotated = which.rotate_certificates.or(config.rotate_certificates).unwrap_or(true);
        let client = ClientSettings::read(options, node.as_deref(), rotated)?;
        Ok(Self { policy: options.timing.policy()?, client, serving })
    }
}

impl ClientSettings {
    fn read(options: &Run, node: Option<&str>, rotated: bool) -> Result<Self, Failure> {
        let wanted = &options.wanted;
        let template = match (&wanted.common_name, node) {
            (Some(name), _) => Template::new(name.as_str()),
            (None, Some(node)) => Template::node(node),
            (None, None) => return Err(Failure::Usage("give --common-name or --node-name".into())),
        };
        let template = template
            .with_organizations(wanted.organization.iter().cloned())
            .with_dns_names(wanted.dns.iter().cloned())
            .with_ip_addresses(wanted.ip.iter().copied())
            .with_uris(wanted.uri.iter().cloned());
        template.check().map_err(|error| Failure::Usage(error.to_string()))?;
        // Kubernetes' ValidateKubeletClientCSR: no names beside the common name, and system:nodes as the organization.
        let has_names = !wanted.dns.is_empty() || !wanted.ip.is_empty();
        if wanted.signer_name == KUBELET_CLIENT_SIGNER && has_names {
            return Err(Failure::Usage(format!(
                "{KUBELET_CLIENT_SIGNER} signs no DNS names or IP addresses: leave out --dns and --ip, \
                 or give another --signer-name; the serving certificate's addresses are --node-ip"
            )));
        }
        if [KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER].contains(&&*wanted.signer_name) && !wanted.uri.is_empty() {
            let signer = &wanted.signer_name;
            return Err(Failure::Usage(format!(
                "{signer} signs no URIs: leave out --uri, or give another --signer-name"
            )));
        }
        let only_nodes = template.organizations().all(|organization| organization == "system:nodes");
        if wanted.signer_name == KUBELET_CLIENT_SIGNER && !only_nodes {
            return Err(Failure::Usage(format!(
                "{KUBELET_CLIENT_SIGNER} signs for the organization system:nodes alone: leave out --organization, \
                 or give another --signer-name"
            )));
        }
        let algorithm = wanted.key_type.algorithm();
        if !algorithm.can_be_generated() {
            return Err(Failure::Usage(format!(
                "this build cannot generate {algorithm} keys: it lacks the feature aws-lc-rs; use --key-type p256"
            )));
        }
        let usages = usages(&wanted.usage, &wanted.signer_name)?;
        // API servers accept client certificates of these signers only.
        let knows = [KUBELET_CLIENT_SIGNER, CLIENT_SIGNER].contains(&wanted.signer_name.as_str());
        let issuers = wanted.issuer_ca_file.as_deref().map(read_roots).transpose()?;
        Ok(Self { template, rotated, is_identity: knows && usages.contains(&Usage::ClientAuth), usages, issuers })
    }

    /// Creates the signer for the certificate of these settings; `None` if the certificate is externally managed.
    /// `user` authenticates requests while there is no certificate, and all requests if API servers do not accept the
    /// certificate as an identity.
    pub(super) fn signer(
        &self,
        options: &Run,
        cluster: Arc<Cluster>,
        user: Arc<dyn IdentitySource>,
    ) -> Option<Arc<dyn Signer>> {
        let (wanted, user) = (&options.wanted, patience::bounded(user));
        let authentication = match self.is_identity {
            true => Authentication::Own { bootstrap: Some(user) },
            false => Authentication::Other(user),
        };
        let signer = CsrSigner {
            authentication,
            signer_name: wanted.signer_name.clone(),
            usages: (!wanted.usage.is_empty()).then(|| wanted.usage.clone()),
            profile: self.profile(options, self.usages.clone()),
            ..CsrSigner::kubelet_client(cluster, None)
        };
        self.rotated.then(|| Arc::new(signer) as Arc<dyn Signer>)
    }

    /// Creates the signer for the serving certificate, with the issuer CAs, key type and lifetime of the client
    /// certificate's settings.
    pub(super) fn serving_signer(&self, options: &Run, cluster: Arc<Cluster>, node: &NodeIdentity) -> Arc<dyn Signer> {
        let profile = self.profile(options, vec![Usage::ServerAuth]);
        Arc::new(CsrSigner { profile, ..CsrSigner::kubelet_serving(cluster, Arc::new(node.bounded())) })
    }

    fn profile(&self, options: &Run, usages: Vec<Usage>) -> Profile {
        let wanted = &options.wanted;
        Profile {
            key_algorithm: wanted.key_type.algorithm(),
            lifetime: wanted.requested_lifetime,
            issuers: self.issuers.clone(),
            accepts_extra_rights: wanted.accept_extra_rights,
            ..Profile::new(usages)
        }
    }
}

/// The usages that an issued certificate must have. Of the requested `usages`, these are 'client auth' and 'server
/// auth', if given. If `usages` is empty, the one required usage is 'server auth' for the signer of kubelet's serving
/// certificates, and 'client auth' for any other signer.
///
/// # Errors
/// [`Failure::Usage`] if `usages` has other usages only.
fn usages(usages: &[String], signer_name: &str) -> Result<Vec<Usage>, Failure> {
    if usages.is_empty() {
        let serves = signer_name == KUBELET_SERVING_SIGNER;
        return Ok(vec![if serves { Usage::ServerAuth } else { Usage::ClientAuth }]);
    }
    let is_given = |usage: &Usage| usages.contains(&usage.to_string());
    let given: Vec<_> = [Usage::ClientAuth, Usage::ServerAuth].into_iter().filter(is_given).collect();
    if given.is_empty() {
        let why = "one --usage must be 'client auth' or 'server auth': these are the usages that perennial verifies in \
                   an issued certificate";
        return Err(Failure::Usage(why.into()));
    }
    Ok(given)
}

fn read_config(path: &Path) -> Result<KubeletConfig, Failure> {
    let text = files::read_text_once(path).map_err(|error| unreadable(path, error))?;
    let config = KubeletConfig::parse(path, &text).map_err(|error| Failure::Usage(error.to_string()))?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(config)
}

fn read_roots(path: &Path) -> Result<Roots, Failure> {
    let pem = files::read_once(path).map_err(|error| unreadable(path, error))?;
    let roots = Roots::from_pem(&pem).map_err(|error| unreadable(path, error))?;
    files::warn_of_skipped(path, roots.skipped());
    Ok(roots)
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}
