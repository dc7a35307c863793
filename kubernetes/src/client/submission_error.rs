//! Errors of a submission: the failure for the machine, and the message for people.

use std::fmt;

use perennial::Failure;
use perennial_pki::Roots;
use serde::Deserialize;

use super::desired::{Desired, Resource};
use super::exchange_error::ExchangeError;
use super::response::{ErrorAnswer, Response};
use crate::cluster::{Cluster, printable};
use perennial_rotation::{Identity, SignError};

/// The facts that messages name: the request object, the API server, and the identity of the submission.
#[derive(Clone, Copy)]
pub(crate) struct ErrorContext<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) identity: &'a Identity,
    pub(crate) desired: &'a dyn Desired,
    /// True if the request object is known to exist.
    pub(crate) exists: bool,
}

impl ErrorContext<'_> {
    /// The error for an answer that refuses an HTTP request. The advice in its message depends on the status code.
    pub(crate) fn refused(self, response: &Response) -> SignError {
        let (shown, resource) = (self.identity.describe(), self.desired.resource());
        let advice = match response.status {
            401 => format!("; it refused the credential ({shown}): is it expired, revoked or for another cluster?"),
            403 if is_of_admission(response) => {
                format!("; the credential may create requests, but not this one: {}", resource.admission)
            }
            403 => format!("; {}", resource.grant),
            404 => resource.not_served(response),
            422 if resource.former_field.is_some_and(|field| ErrorAnswer::read(response).text.contains(field)) => {
                format!(
                    "; this server is older than Kubernetes {}, the first that perennial supports here",
                    resource.since
                )
            }
            300..=399 => redirected(response),
            _ if !ErrorAnswer::read(response).by_the_api => "; check that this is a Kubernetes API server".to_owned(),
            _ => String::new(),
        };
        self.turned_down(response, &advice)
    }

    /// The error for a 404 to the creation of the request object, the answer of a server that does not serve the
    /// resource. `response` is the 404, and `group` the answer to a GET of the API group. If `group` lists the version of
    /// the resource nevertheless, the failure is [`Failure::Unreachable`], since a retry may succeed.
    pub(crate) fn absent(self, response: &Response, group: &Response) -> SignError {
        let resource @ Resource { version, since, settings, .. } = self.desired.resource();
        let advice = match served_versions(group) {
            Some(versions) if versions.iter().any(|served| served == version) => {
                // Of several API servers, one may still be starting. The request was not refused, so a retry may
                // succeed.
                let advice = format!(
                    "; yet it lists certificates.k8s.io/{version}: one of several API servers may still be starting, \
                     or a proxy in between answered{}",
                    resource.or_disabled()
                );
                return SignError { failure: Failure::Unreachable, ..self.turned_down(response, &advice) };
            }
            Some(versions) => {
                let versions = printable(&versions.join(" and "));
                format!(
                    "; it serves certificates.k8s.io only as {versions}, and perennial needs {version}, which \
                     Kubernetes has from {since} on{settings}"
                )
            }
            None => resource.not_served(group),
        };
        self.turned_down(response, &advice)
    }

    /// Converts an answer to an error: the failure follows from the status code, and the message ends with `advice`.
    fn turned_down(self, response: &Response, advice: &str) -> SignError {
        let answer = ErrorAnswer::read(response);
        let failure = match response.status {
            401 => Failure::Unauthorized,
            403 => Failure::Forbidden,
            429 => Failure::Throttled,
            // The server did not get the whole request in time, so that repeating it is right (RFC 9110 §15.5.9).
            408 => Failure::Unreachable,
            400..=499 => Failure::Rejected,
            _ => Failure::Unreachable,
        };
        SignError {
            retry_after: answer.retry_after.or(response.retry_after),
            // Without a credential there is none to have been refused.
            credential_refused: response.status == 401 && !matches!(self.identity, Identity::Anonymous),
            ..self.judged(failure, format_args!("the server answered {}{advice}", answer.text))
        }
    }

    /// The error for an HTTP request without a usable answer.
    pub(crate) fn lost(self, error: &ExchangeError) -> SignError {
        let with_certificate = self.identity.certificate().is_some();
        let (failure, advice) = match error {
            ExchangeError::NoRoots | ExchangeError::Setup(_) => (Failure::Local, String::new()),
            ExchangeError::CertificateRefused(_) => {
                let advice = if with_certificate {
                    "; is the certificate expired, revoked or issued by a CA that this server does not know?".to_owned()
                } else {
                    format!("; it requires a client certificate, and perennial presented {}", self.identity.describe())
                };
                (Failure::Unauthorized, advice)
            }
            ExchangeError::UnknownIssuer(_) => (Failure::Unreachable, self.trust_advice()),
            ExchangeError::Untrusted(_)
            | ExchangeError::Connect(_)
            | ExchangeError::Proxy(_)
            | ExchangeError::TimedOut(_)
            | ExchangeError::Closed
            | ExchangeError::Broken(_)
            | ExchangeError::Tls(_)
            | ExchangeError::Http(_)
            | ExchangeError::Unusable(_) => (Failure::Unreachable, String::new()),
        };
        SignError {
            credential_refused: failure == Failure::Unauthorized && with_certificate,
            ..self.judged(failure, format_args!("{error}{advice}"))
        }
    }

    /// The error for a submission that ended without a usable certificate.
    pub(crate) fn judged(self, failure: Failure, what: impl fmt::Display) -> SignError {
        SignError::new(failure, format!("{self}: {what}"))
    }

    /// The error for a 404 to a read of the request object, from the API or from a proxy in between.
    pub(crate) fn gone(self, response: &Response) -> SignError {
        let answer = ErrorAnswer::read(response);
        self.judged(Failure::Deleted, format_args!("it is gone: the server answered {}", answer.text))
    }

    /// The error for a submission that has used up its HTTP requests.
    pub(crate) fn given_up(self, requests: u32, last_error: &str) -> SignError {
        let what = format_args!("gave up after {requests} HTTP requests; last error: {last_error}");
        self.judged(Failure::Unreachable, what)
    }

    /// Advice if the server's certificate is issued by none of the configured CAs. The advice names the origin of these
    /// CAs and, unless they are the CAs of the system, their subjects.
    fn trust_advice(self) -> String {
        let Some(source) = self.cluster.roots() else { return String::new() };
        let Ok(roots) = source.roots() else { return String::new() };
        let (subjects, origin) = (subjects(&roots), printable(&source.origin()));
        if source.of_system() {
            return format!(
                "; the kubeconfig has no certificate-authority, and {origin}, do not include the server's CA: set \
                 certificate-authority to the cluster's CA"
            );
        }
        format!(
            "; check the cluster's certificate-authority{}: it holds {}",
            if origin.is_empty() { origin } else { format!(" ({origin})") },
            if subjects.is_empty() { "nothing readable".to_owned() } else { subjects.join(" and ") },
        )
    }
}

impl fmt::Display for ErrorContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let creating = if self.exists { "" } else { "cannot create " };
        write!(f, "{creating}{} at {}", self.desired.title(), self.cluster)
    }
}

impl Resource {
    /// Advice for the 404 of a server that does not serve the resource.
    fn not_served(&self, response: &Response) -> String {
        let Self { version, since, settings, .. } = self;
        if ErrorAnswer::read(response).by_the_api {
            return format!(
                "; the server does not serve certificates.k8s.io/{version}, which Kubernetes has from {since} \
                 on{settings}; check the version and the URL of the server"
            );
        }
        format!(
            "; the server does not know the API group certificates.k8s.io: check that the URL is that of a Kubernetes \
             API server, of {since} or newer"
        )
    }

    /// A further reason, as a clause, why a server that serves the version may lack the resource. Empty if servers serve
    /// the resource by default.
    fn or_disabled(&self) -> String {
        match self.settings {
            "" => String::new(),
            settings => format!(", or it has no {}, which Kubernetes has from {} on{settings}", self.name, self.since),
        }
    }
}

/// True if an admission plugin or a policy of the API server has refused the object of the HTTP request, and not the
/// authorizer its user. Both give 403 (`NewForbidden` of apimachinery); the authorizer's message is
/// `User "NAME" cannot VERB resource …` (`forbiddenMessage` of apiserver).
fn is_of_admission(response: &Response) -> bool {
    let ErrorAnswer { text, by_the_api, .. } = ErrorAnswer::read(response);
    by_the_api && text.contains(" is forbidden: ") && !text.contains("\" cannot ")
}

/// Advice for a redirect: its target, and why perennial does not follow it.
fn redirected(response: &Response) -> String {
    let target = match printable(&response.location) {
        target if target.is_empty() => "a redirect that names no target".to_owned(),
        target => format!("a redirect to {target}"),
    };
    format!(
        "; this is {target}, which perennial does not follow: it would send the credential to another server. Set the \
         kubeconfig's `server` to the URL of the API server itself"
    )
}

/// The served versions of an `APIGroup`; `None` if the answer is not an `APIGroup`.
fn served_versions(response: &Response) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Group {
        kind: String,
        versions: Vec<Version>,
    }
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }
    let group: Group = serde_json::from_slice(&response.body).ok()?;
    (response.status == 200 && group.kind == "APIGroup" && !group.versions.is_empty())
        .then(|| group.versions.into_iter().map(|version| version.version).collect())
}

/// The subjects of the first three CAs, and the number of the other CAs.
fn subjects(roots: &Roots) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut subjects: Vec<_> = roots.subjects().map(|subject| printable(&subject)).collect();
    let more = subjects.split_off(SHOWN.min(subjects.len())).len();
    subjects.extend((more > 0).then(|| format!("{more} more")));
    subjects
}
