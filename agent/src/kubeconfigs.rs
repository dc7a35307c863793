//! The node's kubeconfig and the bootstrap kubeconfig: the API server, the identity of the first request, and whether
//! the node's kubeconfig has to be written.

mod server;
mod write;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use perennial_kubernetes::kubeconfig::{Endpoint, Kubeconfig, KubeconfigError};
use perennial_rotation::{Identity, IdentitySource, NotYet, clock};

use crate::cli::Proxy;
use crate::failure::Failure;
use crate::files;
pub(crate) use server::Server;
pub(crate) use write::{make_room, write};

/// Access to the API server, by the node's kubeconfig and the bootstrap kubeconfig.
pub(crate) struct Access {
    pub(crate) endpoint: Endpoint,
    pub(crate) server: Server,
    /// The identity for requests while there is no accepted certificate. Reads both kubeconfigs again for each request.
    pub(crate) bootstrap: Arc<dyn IdentitySource>,
    /// True if the node's kubeconfig has to be written once a certificate exists.
    pub(crate) write: bool,
}

/// Reads both kubeconfigs. `needed` is true if there is no valid certificate, so that the first request depends on a
/// kubeconfig's credential.
///
/// The node's kubeconfig names the cluster if its credential is usable, or if no bootstrap kubeconfig exists. Otherwise
/// the bootstrap kubeconfig names the cluster, as in kubelet. A node's kubeconfig with a usable credential is never
/// overwritten.
///
/// # Errors
/// [`Failure::Usage`] if no kubeconfig exists, if the one that names the cluster cannot be used, or if `needed` is true
/// and neither kubeconfig has a usable credential.
pub(crate) fn read(node: &Path, bootstrap: Option<&Path>, proxy: Proxy, needed: bool) -> Result<Access, Failure> {
    let own = match load(node).map_err(Failure::Usage)? {
        Some(kubeconfig) => {
            warn(&kubeconfig);
            Some(own_credential(&kubeconfig).map_err(Failure::usage)?)
        }
        None => None,
    };
    let existing = match bootstrap {
        Some(path) if exists(path)? => Some(path),
        _ => None,
    };
    let primary = match (own, existing, bootstrap) {
        (Some(OwnCredential::Good), ..) | (Some(_), None, _) => node,
        (_, Some(existing), _) => existing,
        (None, None, Some(bootstrap)) => {
            let (node, bootstrap) = (node.display(), bootstrap.display());
            return Err(Failure::Usage(format!(
                "neither {node} nor {bootstrap} exists: one of them must name the cluster and the \
                 credential for the first request"
            )));
        }
        (None, None, None) => {
            let node = node.display();
            return Err(Failure::Usage(format!(
                "{node} does not exist: give --bootstrap-kubeconfig, a kubeconfig with a bootstrap token or another \
                 credential for the first request; {node} is written once there is a certificate"
            )));
        }
    };
    let endpoint = endpoint(primary).map_err(Failure::Usage)?;
    let named = |why| Failure::Usage(format!("{}: {why}", primary.display()));
    let server = Server::of(primary, &endpoint, proxy).map_err(named)?;

    match bootstrap_identity(node, bootstrap, &endpoint) {
        Err(why) if needed => {
            let missing = bootstrap.filter(|_| existing.is_none());
            let missing = missing.map(|path| format!(", and {} does not exist", path.display())).unwrap_or_default();
            let advice = "there is no valid certificate yet, and the first request needs this credential";
            return Err(Failure::Usage(format!("{why}; {advice}{missing}")));
        }
        Err(why) if existing.is_some() => tracing::warn!(
            "cannot use the credential for a first request: {why}; it is not needed while the certificate is valid"
        ),
        Ok(_) | Err(_) => {}
    }
    if let Some(bootstrap) = existing.and_then(|path| load(path).ok()?) {
        warn(&bootstrap);
    }
    if own == Some(OwnCredential::Useless) && existing.is_none() && !needed {
        let node = node.display();
        tracing::warn!(
            "{node}: the user in this kubeconfig has no credential that is valid now, so that a kubelet would not \
             start from it; point client-certificate and client-key at kubelet-client-current.pem in the certificate \
             directory, or give an existing --bootstrap-kubeconfig, so that perennial writes the kubeconfig anew"
        );
    }
    // A missing kubeconfig is written, and an unusable one if the bootstrap kubeconfig exists, as kubelet does.
    let write = own.is_none_or(|own| own != OwnCredential::Good && existing.is_some());
    let (node, bootstrap, of) = (node.to_owned(), bootstrap.map(Path::to_owned), endpoint.clone());
    let bootstrap = move || bootstrap_identity(&node, bootstrap.as_deref(), &of).map_err(NotYet::new);
    let bootstrap: Arc<dyn IdentitySource> = Arc::new(bootstrap);
    Ok(Access { endpoint, server, bootstrap, write })
}

/// Logs a kubeconfig's warnings: fields that perennial ignores. Called once per start or reload, not for each request.
fn warn(kubeconfig: &Kubeconfig) {
    let of_user = kubeconfig.select(None).map(|selected| selected.warnings()).unwrap_or_default();
    kubeconfig.warnings().iter().chain(&of_user).for_each(|warning| tracing::warn!("{warning}"));
}

/// The identity for a request while there is no accepted certificate: the bootstrap kubeconfig's or, if that file does
/// not exist, the identity in the node's kubeconfig. Checks at each call whether the bootstrap kubeconfig exists:
/// kubeadm removes the file once the node has joined, and an operator adds one to make the node join again.
fn bootstrap_identity(node: &Path, bootstrap: Option<&Path>, target: &Endpoint) -> Result<Identity, String> {
    let missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    let Some(bootstrap) = bootstrap.filter(|path| !missing(path)) else { return identity_for(target, node) };
    match why_another_cluster(bootstrap, target)? {
        None => identity(bootstrap),
        // A bootstrap kubeconfig of another cluster may have been added after the start. Its credential is never sent
        // to this cluster, but the node's own kubeconfig may have one that this cluster accepts.
        Some(why) => identity_for(target, node).map_err(|_| why),
    }
}

/// Returns the identity in the kubeconfig at `path`, or an error if the kubeconfig is for another cluster than
/// `target`: a credential is never sent to another cluster.
pub(crate) fn identity_for(target: &Endpoint, path: &Path) -> Result<Identity, String> {
    match why_another_cluster(path, target)? {
        None => identity(path),
        Some(why) => Err(why),
    }
}

/// The reason why the kubeconfig at `path` is not for the cluster `target`, to which its credential must not be sent
/// then; `None` if the kubeconfig is for that cluster.
fn why_another_cluster(path: &Path, target: &Endpoint) -> Result<Option<String>, String> {
    let of = endpoint(path)?;
    // Read again, since the CA in the file may have been rotated after `target` was read.
    let ca_pem = target.ca_file.as_ref().and_then(|file| files::read(file).ok()).or_else(|| target.ca_pem.clone());
    let target = &Endpoint { ca_pem, ..target.clone() };
    Ok((!is_same_cluster(&of, target)).then(|| {
        format!(
            "{}: it is for cluster {}, but perennial uses {}, which has another CA; its credential is not sent \
             there. Send SIGHUP or restart to choose the cluster again",
            path.display(),
            of.server,
            target.server
        )
    }))
}

/// True if both endpoints have the same URL, or the same CA at different URLs: a cluster may have several addresses.
fn is_same_cluster(one: &Endpoint, other: &Endpoint) -> bool {
    let ca = |endpoint: &Endpoint| {
        let pem = endpoint.ca_pem.as_ref()?;
        Some(pem.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<u8>>())
    };
    one.server == other.server || ca(one).is_some() && ca(one) == ca(other)
}

/// True if the file exists. A file in a directory that this user may not search is an error, not a missing file.
fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|error| Failure::Usage(format!("{}: cannot be read: {error}", path.display())))
}

/// Reads the kubeconfig at `path`; `None` if the file does not exist.
fn load(path: &Path) -> Result<Option<Kubeconfig>, String> {
    let text = match files::read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: cannot be read: {error}", path.display())),
    };
    Kubeconfig::parse(path, &text).map(Some).map_err(|error| error.to_string())
}

fn load_existing(path: &Path) -> Result<Kubeconfig, String> {
    load(path)?.ok_or_else(|| format!("{}: there is no such file", path.display()))
}

/// The state of the credential in the node's own kubeconfig.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnCredential {
    /// The credential is valid now. A token counts as valid, since only the API server can check it.
    Good,
    /// The credential is missing, expired or not valid yet: neither kubelet nor perennial can use it.
    Useless,
    /// perennial cannot read the credential. kubelet may be able to: Go supports kinds of keys that perennial does not.
    Unreadable,
}

/// Reads the credential of a kubeconfig's user, and checks that the certificate is valid now, by notBefore as well. As
/// in kubelet's `isClientConfigStillValid`, a start does not fail if a file of the credential cannot be read: the file
/// may belong to the pair that a rotation will replace.
///
/// # Errors
/// If the kubeconfig selects no user, or one with a credential that perennial does not support.
fn own_credential(kubeconfig: &Kubeconfig) -> Result<OwnCredential, KubeconfigError> {
    match kubeconfig.select(None)?.identity(&mut files::read) {
        Ok(Identity::Anonymous) => Ok(OwnCredential::Useless),
        // Only the API server knows whether a token is valid.
        Ok(Identity::Token(_) | Identity::CertificateAndToken(..)) => Ok(OwnCredential::Good),
        Ok(Identity::Certificate(credential)) => {
            let (validity, now) = (credential.chain().certificate().validity, clock::now().unix);
            let valid = validity.not_before() <= now && !validity.expired(now);
            Ok(if valid { OwnCredential::Good } else { OwnCredential::Useless })
        }
        // The kubeconfig names the file of a certificate that has not been issued yet.
        Err(KubeconfigError::Unreadable { error, .. }) if error.kind() == ErrorKind::NotFound => {
            Ok(OwnCredential::Useless)
        }
        Err(
            error @ (KubeconfigError::Unreadable { .. }
            | KubeconfigError::Credential { .. }
            | KubeconfigError::Mismatch { .. }),
        ) => {
            tracing::warn!("cannot use the credential in the kubeconfig: {error}; continuing without it");
            Ok(OwnCredential::Unreadable)
        }
        Err(error) => Err(error),
    }
}

/// Reads the API server that the kubeconfig at `path` names.
///
/// # Errors
/// If the kubeconfig cannot be used.
pub(crate) fn endpoint(path: &Path) -> Result<Endpoint, String> {
    let kubeconfig = load_existing(path)?;
    let selected = kubeconfig.select(None).map_err(|error| error.to_string())?;
    selected.cluster(&mut files::read).map_err(|error| error.to_string())
}

/// Reads the identity of the user in the kubeconfig at `path`, from all files that the kubeconfig names for the user.
///
/// # Errors
/// If the kubeconfig or a file cannot be used, if the user has no credential, or if the user's certificate has expired
/// and there is no token beside it.
pub(crate) fn identity(path: &Path) -> Result<Identity, String> {
    let kubeconfig = load_existing(path)?;
    let selected = kubeconfig.select(None).map_err(|error| error.to_string())?;
    let identity = selected.identity(&mut files::read).map_err(|error| error.to_string())?;
    let bad = |why: String| Err(format!("{}: {why}", path.display()));
    let expired = identity.certificate().map(|credential| credential.chain().certificate().validity);
    let expired = expired.filter(|validity| validity.expired(clock::now().unix));
    match (identity, expired) {
        (Identity::Anonymous, _) => bad("its user has neither a token nor a client certificate".into()),
        // A server may end the handshake over an expired certificate; the token authenticates alone.
        (Identity::CertificateAndToken(_, token), Some(_)) => Ok(Identity::Token(token)),
        (Identity::Certificate(_), Some(validity)) => {
            bad(format!("the certificate of its user expired at {}", validity.not_after()))
        }
        (identity, _) => Ok(identity),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use perennial::{Template, UnixTime};
    use perennial_pki::interim;
    use tempfile::TempDir;

    use super::*;

    /// A directory for kubeconfigs of two clusters: the node's in the file `node`, the bootstrap kubeconfig in
    /// `bootstrap`.
    struct Files(TempDir);

    impl Files {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn put(&self, name: &str, user: &str) {
            self.put_of(name, name, user);
        }

        fn put_of(&self, cluster: &str, name: &str, user: &str) {
            let text = format!(
                "clusters: [{{name: c, cluster: {{server: 'https://{cluster}.example', \
                 insecure-skip-tls-verify: true}}}}]\n\
                 users: [{{name: u, user: {{{user}}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
            );
            fs::write(self.path(name), text).unwrap();
        }

        /// Writes a kubeconfig with a certificate for its user. The certificate is valid for a day, from five minutes
        /// before `from`.
        fn put_with_certificate(&self, name: &str, from: UnixTime) {
            let credential = interim(&Template::node("worker"), from).unwrap();
            fs::write(self.path("own.pem"), credential.to_pem().as_bytes()).unwrap();
            self.put(name, "client-certificate: own.pem, client-key: own.pem");
        }

        fn read(&self) -> Access {
            read(&self.path("node"), Some(&self.path("bootstrap")), Proxy::None, false).unwrap()
        }
    }

    #[test]
    fn bootstrap_identity_is_read_from_kubeconfigs_at_each_request() {
        let files = Files::new();
        files.put_with_certificate("node", clock::now().unix);
        let ask = files.read().bootstrap;
        assert!(matches!(ask.identity(), Ok(Identity::Certificate(_))));
        files.put_of("node", "bootstrap", "token: abcdef.0123456789abcdef");
        assert!(matches!(ask.identity(), Ok(Identity::Token(_))));
        files.put_of("node", "bootstrap", "");
        assert!(ask.identity().is_err_and(|why| why.to_string().contains("neither a token nor")));
        fs::remove_file(files.path("bootstrap")).unwrap();
        assert!(matches!(ask.identity(), Ok(Identity::Certificate(_))));
    }

    #[test]
    fn bootstrap_token_is_not_sent_to_another_cluster() {
        let files = Files::new();
        files.put_with_certificate("node", clock::now().unix);
        let ask = files.read().bootstrap;
        files.put("bootstrap", "token: abcdef.0123456789abcdef");
        assert!(matches!(ask.identity(), Ok(Identity::Certificate(_))), "the node's own is still one");
        files.put("node", "");
        assert!(
            ask.identity().is_err_and(|why| why.to_string().contains("it is for cluster https://bootstrap.example"))
        );
    }

    #[test]
    fn endpoints_with_same_url_or_ca_are_same_cluster() {
        let at = |server: &str, ca: Option<&str>| Endpoint {
            server: server.into(),
            ca_pem: ca.map(|ca| ca.as_bytes().to_vec()),
            ..Endpoint::default()
        };
        for (one, other, same) in [
            (at("https://a", None), at("https://a", Some("x")), true),
            (at("https://a", Some("x\ny")), at("https://b", Some("x\r\ny\n")), true),
            (at("https://a", Some("x")), at("https://b", Some("y")), false),
            (at("https://a", None), at("https://b", None), false),
        ] {
            assert_eq!(is_same_cluster(&one, &other), same, "{one:?} {other:?}");
        }
    }

    #[test]
    fn bootstrap_kubeconfig_names_cluster_unless_node_kubeconfig_is_usable() {
        let (now, year) = (clock::now().unix, std::time::Duration::from_secs(365 * 86_400));
        let files = Files::new();
        for (from, usable) in [(now, true), (now.before(year * 3), false), (now.after(year), false)] {
            files.put_with_certificate("node", from);
            files.put("bootstrap", "token: abcdef.0123456789abcdef");
            let access = files.read();
            let server = if usable { "https://node.example" } else { "https://bootstrap.example" };
            assert_eq!((access.endpoint.server.as_str(), access.write), (server, !usable));
            assert_eq!(access.server.cluster.to_string().contains("bootstrap.example"), !usable);

            fs::remove_file(files.path("bootstrap")).unwrap();
            assert_eq!(files.read().endpoint.server, "https://node.example");
        }
        // kubelet writes its kubeconfig before there is a certificate.
        files.put("node", "client-certificate: to-come.pem, client-key: to-come.pem");
        files.put("bootstrap", "token: abcdef.0123456789abcdef");
        assert_eq!(files.read().endpoint.server, "https://bootstrap.example");
    }
}
