//! A member of the list with the contents of the files that it names.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use perennial_kubernetes::client::Limits;
use perennial_kubernetes::kubeconfig::Endpoint;
use perennial_kubernetes::{CsrSigner, PodCertificateSigner};
use perennial_pki::Roots;
use perennial_rotation::{Authentication, Identity, IdentitySource, NotYet, Profile, Signer, TokenFile};
use rustix::process::Signal;

use super::handles::{After, CertificateOf, Handles};
use crate::certificates::{self, Asker, ListedBundle, Member};
use crate::cli::Proxy;
use crate::files;
use crate::hook_debt::{Hook, LIST_HOOK};
use crate::kubeconfigs::{self, Server};
use crate::patience;
use crate::run::bundles::Connect;

/// A member with the contents of its kubeconfig and CA file. Two are equal if a running rotation has nothing to change.
#[derive(Clone, PartialEq)]
pub(crate) struct Resolved {
    pub(super) member: Member,
    endpoint: Endpoint,
    issuers: Option<Roots>,
}

impl Resolved {
    /// Reads the files that the member names. Changes no file.
    ///
    /// # Errors
    /// A clause with the file that cannot be used.
    pub(crate) fn read(member: Member) -> Result<Self, String> {
        let endpoint = kubeconfigs::endpoint(&member.cluster_kubeconfig).map_err(|why| {
            format!(
                "{why}; the API server and its CA are read from this file (`clusterKubeconfig` or, without it, the \
                 kubeconfig of `identity`): provide the file, or name another kubeconfig"
            )
        })?;
        let issuers = member.issuer_ca_file.as_deref().map(|path| {
            let pem = files::read(path).map_err(|error| error.to_string());
            let roots = pem.and_then(|pem| Roots::from_pem(&pem).map_err(|error| error.to_string()));
            let roots = roots.map_err(|error| {
                format!("{}: {error}; `issuerCAFile` names this file: provide it, or remove the key", path.display())
            })?;
            files::warn_of_skipped(path, roots.skipped());
            Ok::<_, String>(roots)
        });
        Ok(Self { endpoint, issuers: issuers.transpose()?, member })
    }

    /// Reads the credential in the file that the member names for its requests, as a request would. Reads nothing if the
    /// member requests with the certificate of another member.
    ///
    /// # Errors
    /// A clause with the reason why a request cannot use the credential.
    pub(crate) fn check_identity(&self) -> Result<(), String> {
        match &self.member.asker {
            Asker::Member(_) => Ok(()),
            in_file => identity_in(in_file, &self.endpoint).map(drop).map_err(|error| error.to_string()),
        }
    }

    /// True if `other` submits the same requests in the same way: its signer needs no change.
    pub(super) fn requests_like(&self, other: &Self) -> bool {
        let with_other_names = |resolved: &Self| {
            let member = resolved.member.clone();
            let Member { name, template, policy, location, reaction, .. } = other.member.clone();
            Self { member: Member { name, template, policy, location, reaction, ..member }, ..resolved.clone() }
        };
        with_other_names(self) == *other
    }

    /// The common name of the certificate, which may be empty; `None` if the signer chooses the names.
    pub(super) fn common_name(&self) -> Option<&str> {
        self.member.template.wanted_common_name()
    }

    /// True if API servers accept the certificate as an identity, so that its acceptance can be checked.
    pub(super) fn is_identity(&self) -> bool {
        matches!(self.member.asker, Asker::Own { .. })
    }

    /// The hook of the certificate; `None` if the member has neither a command nor a signal.
    pub(super) fn hook(&self) -> Option<Arc<Hook>> {
        let reaction = &self.member.reaction;
        let command = reaction.command.as_ref();
        let signal = reaction.signal.as_ref().map(|signal| {
            let name = match signal.signal {
                certificates::Signal::Hup => Signal::HUP,
                certificates::Signal::Usr1 => Signal::USR1,
                certificates::Signal::Usr2 => Signal::USR2,
            };
            (name, signal.path.clone())
        });
        let is_wanted = command.is_some() || signal.is_some();
        let limit = command.map(|command| command.timeout).unwrap_or_default();
        let command = command.map(|command| command.arguments.clone()).unwrap_or_default();
        is_wanted.then(|| Arc::new(Hook { label: LIST_HOOK, command, signal, limit }))
    }

    /// Creates the signer. `sources` has the credentials in files. `has_certificate` is true if the member has a valid
    /// certificate already, and does not wait for the members that come before it.
    pub(super) fn signer(
        &self,
        server: &Server,
        handles: &Handles,
        sources: &Sources,
        has_certificate: bool,
    ) -> Arc<dyn Signer> {
        let member = &self.member;
        let then: Arc<dyn IdentitySource> = match &member.asker {
            Asker::Member(name) => Arc::new(CertificateOf { name: name.clone(), handles: handles.clone() }),
            in_file => sources.of(in_file, &self.endpoint),
        };
        let source: Arc<dyn IdentitySource> = match member.after.is_empty() {
            true => then,
            false => {
                let (others, passed) = (member.after.clone(), AtomicBool::new(has_certificate));
                Arc::new(After { others, handles: handles.clone(), passed, then })
            }
        };
        let authentication = match &member.asker {
            Asker::Own { .. } => Authentication::Own { bootstrap: Some(source) },
            _ => Authentication::Other(source),
        };
        let profile = Profile {
            key_algorithm: member.key_type,
            lifetime: member.lifetime,
            issuers: self.issuers.clone(),
            accepts_extra_rights: member.accepts_extra_rights,
            ..Profile::new(member.required_usages.clone())
        };
        if let Some(pod) = &member.pod {
            return Arc::new(PodCertificateSigner {
                cluster: server.cluster.clone(),
                authentication,
                signer_name: member.signer.clone(),
                pod: pod.identity.clone(),
                unverified_user_annotations: pod.user_annotations.clone(),
                profile,
                limits: Limits::default(),
            });
        }
        Arc::new(CsrSigner {
            authentication,
            signer_name: member.signer.clone(),
            usages: member.usages.clone(),
            profile,
            ..CsrSigner::kubelet_client(server.cluster.clone(), None)
        })
    }
}

/// The credentials in files that members request with. Members with the same file share the time limit of its reads: the
/// loop of all members waits for a disk that does not answer once per file, not once per member. Clones share the
/// credentials.
#[derive(Clone, Default)]
pub(super) struct Sources(Arc<Mutex<Vec<Source>>>);

/// The member's key of the list that names the file, the API server, and the credential in the file.
type Source = (Asker, Endpoint, Arc<dyn IdentitySource>);

impl Sources {
    /// The credential in the file that `asker` names, for requests to the API server at `endpoint`.
    fn of(&self, asker: &Asker, endpoint: &Endpoint) -> Arc<dyn IdentitySource> {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One reference is that of this list.
        sources.retain(|(_, _, source)| Arc::strong_count(source) > 1);
        let is_same = |(other, at, _): &&Source| other == asker && at == endpoint;
        if let Some((_, _, source)) = sources.iter().find(is_same) {
            return source.clone();
        }
        let (file, to) = (asker.clone(), endpoint.clone());
        let source = patience::bounded(Arc::new(move || identity_in(&file, &to)));
        sources.push((asker.clone(), endpoint.clone(), source.clone()));
        source
    }
}

/// Determines the connection of a trust bundle: the API server of its kubeconfig, and the identity of its requests.
pub(super) fn connect(listed: &ListedBundle, handles: &Handles, proxy: Proxy) -> Connect {
    let (listed, handles) = (listed.clone(), handles.clone());
    Arc::new(move || {
        let ListedBundle { asker, cluster_kubeconfig: path, .. } = &listed;
        let endpoint = kubeconfigs::endpoint(path)?;
        let server = Server::of(path, &endpoint, proxy).map_err(|why| format!("{}: {why}", path.display()))?;
        let identity: Arc<dyn IdentitySource> = match asker {
            Asker::Member(name) => Arc::new(CertificateOf { name: name.clone(), handles: handles.clone() }),
            in_file => {
                let in_file = in_file.clone();
                Arc::new(move || identity_in(&in_file, &endpoint))
            }
        };
        Ok((server.cluster, identity))
    })
}

/// Reads the files that a trust bundle names for its requests, as a run does. Changes no file.
///
/// # Errors
/// A clause with the file that cannot be used.
pub(crate) fn check_connection(listed: &ListedBundle) -> Result<(), String> {
    let (_, identity) = connect(listed, &Handles::default(), Proxy::Environment)()?;
    match &listed.asker {
        Asker::Member(_) => Ok(()),
        _ => identity.identity().map(drop).map_err(|error| error.to_string()),
    }
}

/// Reads the credential in the file that `asker` names, for requests to the API server at `endpoint`.
fn identity_in(asker: &Asker, endpoint: &Endpoint) -> Result<Identity, NotYet> {
    match asker {
        Asker::Own { bootstrap_kubeconfig: path } | Asker::Kubeconfig(path) => {
            kubeconfigs::identity_for(endpoint, path).map_err(NotYet::new)
        }
        Asker::TokenFile(path) => TokenFile::new(path).identity(),
        Asker::Member(name) => Err(NotYet::new(format!("the certificate {name} is in no file"))),
    }
}

/// The API servers of all members. Members whose kubeconfigs name a server in the same way share its CAs and, if their
/// requests have the same identity, connections to it. Clones share the servers.
#[derive(Clone, Default)]
pub(crate) struct Servers(Arc<Mutex<Vec<(Endpoint, Server)>>>);

impl Servers {
    /// The server of a member.
    ///
    /// # Errors
    /// A clause with the kubeconfig that cannot be used.
    pub(crate) fn of(&self, resolved: &Resolved, proxy: Proxy) -> Result<Server, String> {
        let path = &resolved.member.cluster_kubeconfig;
        let is_same =
            |(endpoint, server): &&(Endpoint, Server)| *endpoint == resolved.endpoint && server.kubeconfig() == path;
        let known = |servers: &[(Endpoint, Server)]| servers.iter().find(is_same).map(|(_, server)| server.clone());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known(&lock());
        if let Some(server) = found {
            return Ok(server);
        }
        // Without the lock, for which the main loop waits: the disk of the CA file may not answer.
        let server = Server::of(path, &resolved.endpoint, proxy).map_err(|why| format!("{}: {why}", path.display()))?;
        let mut servers = lock();
        Ok(known(&servers).unwrap_or_else(|| {
            let server = server.with_kept_connections();
            servers.push((resolved.endpoint.clone(), server.clone()));
            server
        }))
    }

    /// Forgets the servers that no running member uses.
    pub(super) fn retain_used(&self) {
        // One reference is that of this list. The signer of each member that uses the server has another.
        let is_used = |(_, server): &(Endpoint, Server)| Arc::strong_count(&server.cluster) > 1;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(is_used);
    }

    /// All servers, for `/state`.
    pub(super) fn all(&self) -> Vec<Server> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, server)| server.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_with_same_file_share_its_source_while_one_uses_it() {
        let sources = Sources::default();
        let (asker, here) = (Asker::TokenFile("/token".into()), Endpoint::default());
        let there = Endpoint { server: "https://there.example".into(), ..Endpoint::default() };
        let first = sources.of(&asker, &here);
        assert!(Arc::ptr_eq(&first, &sources.of(&asker, &here)));
        assert!(!Arc::ptr_eq(&first, &sources.of(&asker, &there)));
        assert!(!Arc::ptr_eq(&first, &sources.of(&Asker::Kubeconfig("/token".into()), &here)));
        drop(first);
        drop(sources.of(&asker, &there));
        assert_eq!(sources.0.lock().unwrap().len(), 1);
    }
}
