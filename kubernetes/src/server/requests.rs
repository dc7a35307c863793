//! The verbs of `certificatesigningrequests`.

use std::sync::Arc;
use std::time::Duration;

use perennial::UnixTime;
use serde_json::{Value, json};

use super::access::{self, Attributes};
use super::api::Api;
use super::body;
use super::identity::Identity;
use super::message::{Answer, ApiRequest, Method, Query, Response};
use super::selector::Selector;
use super::store::{Store, StoreError, Stored};
use super::table::{Shape, object, shaped, table};
use super::validation::{self, Part};
use super::watch::{Start, Watcher};
use super::{patch, rfc3339, status};
use crate::objects::{API_VERSION, CertificateSigningRequest, CsrStatus};

/// A generated name is cut to this length before its suffix.
const LONGEST_PREFIX: usize = 58;
/// A cluster gives up generating names after this many collisions.
const NAME_TRIES: usize = 8;
/// A watch without `timeoutSeconds` lasts half an hour; a cluster draws from half an hour to an hour.
const WATCH: Duration = Duration::from_secs(1800);

impl Api {
    /// `rest` is what follows the collection in the path: a name, a subresource.
    pub(super) fn collection(
        &mut self,
        request: &ApiRequest,
        user: &Identity,
        rest: &[&str],
        now: UnixTime,
    ) -> Result<Answer, Response> {
        let query = request.query();
        let (name, subresource) = match *rest {
            [] => ("", ""),
            [name] => (name, ""),
            [name, subresource @ ("approval" | "status")] => (name, subresource),
            _ => return Err(status::no_such_resource()),
        };
        let verb = match (request.method, name) {
            (Method::Get, _) if query.flag("watch") => "watch",
            (Method::Get, "") => "list",
            (Method::Get, _) => "get",
            (Method::Post, "") => "create",
            (Method::Put, name) if !name.is_empty() => "update",
            (Method::Patch, name) if !name.is_empty() => "patch",
            (Method::Delete, "") => "deletecollection",
            (Method::Delete, _) if subresource.is_empty() => "delete",
            _ => return Err(status::method_not_allowed()),
        };
        let (group, resource) = (status::GROUP, status::RESOURCE);
        access::authorize(user, &Attributes { verb, group, resource, subresource, name })?;
        let shape = Shape::accepted(&request.accept, &query).ok_or_else(status::not_acceptable)?;
        if query.get("dryRun").is_some() {
            return Err(body::no_dry_run());
        }

        let part = match subresource {
            "approval" => Some(Part::Approval),
            "status" => Some(Part::Status),
            _ => None,
        };
        let stored = match verb {
            "watch" => return self.watch(&query, name, shape).map(Answer::Watch),
            "list" => return self.list(&query, shape, now).map(Answer::Response),
            "deletecollection" => return self.delete_collection(&query, now).map(Answer::Response),
            "delete" => return self.delete(request, name).map(Answer::Response),
            "get" => Arc::clone(self.find(name)?),
            "create" => {
                let created = self.create(body::csr(request)?, user, now)?;
                return Ok(Answer::Response(Response::json(201, &shaped(&created, shape, now))));
            }
            "patch" => {
                let patch = patch::read(request)?;
                let old = Arc::clone(self.find(name)?);
                self.update(patch.apply(&old.object)?, user, name, part, now)?
            }
            _ => self.update(body::csr(request)?, user, name, part, now)?,
        };
        Ok(Answer::Response(Response::json(200, &shaped(&stored, shape, now))))
    }

    pub(super) fn find(&self, name: &str) -> Result<&Arc<Stored>, Response> {
        self.store.get(name).ok_or_else(|| status::not_found(name))
    }

    fn create(
        &mut self,
        mut csr: CertificateSigningRequest,
        user: &Identity,
        now: UnixTime,
    ) -> Result<Arc<Stored>, Response> {
        self.name(&mut csr)?;
        let name = csr.metadata.name.clone();
        validation::name(&name).map_err(|causes| status::invalid(&name, causes))?;
        access::restrict_node(user, &name, &csr.spec)?;
        let request =
            validation::create(&csr.spec, self.options.allow_short).map_err(|causes| status::invalid(&name, causes))?;
        access::restrict_subject(&request, &name, &csr.spec)?;

        csr.metadata.uid = self.random.uid();
        csr.metadata.creation_timestamp = Some(rfc3339(now));
        csr.spec.username.clone_from(&user.username);
        csr.spec.uid = String::new();
        csr.spec.groups.clone_from(&user.groups);
        csr.spec.extra.clone_from(&user.extra);
        csr.status = CsrStatus::default();
        let stored = self.store.insert(csr, now).map_err(|error| match error {
            StoreError::Exists => status::already_exists(&name),
            StoreError::Full => status::full(self.options.capacity),
        })?;
        self.schedule(&name, now);
        Ok(stored)
    }

    /// Completes `generateName`.
    fn name(&mut self, csr: &mut CertificateSigningRequest) -> Result<(), Response> {
        let metadata = &mut csr.metadata;
        if !metadata.name.is_empty() {
            return Ok(());
        }
        if metadata.generate_name.is_empty() {
            let cause = crate::objects::StatusCause {
                reason: "FieldValueRequired".into(),
                message: "Required value: name or generateName is required".into(),
                field: "metadata.name".into(),
            };
            return Err(status::invalid("", vec![cause]));
        }
        let prefix: String = metadata.generate_name.chars().take(LONGEST_PREFIX).collect();
        for _ in 0..NAME_TRIES {
            let name = format!("{prefix}{}", self.random.suffix());
            if self.store.get(&name).is_none() {
                metadata.name = name;
                return Ok(());
            }
        }
        Err(status::already_exists(&metadata.generate_name))
    }

    fn list(&self, query: &Query, shape: Shape, now: UnixTime) -> Result<Response, Response> {
        let selector = Selector::from_query(query)?;
        if query.flag("sendInitialEvents") {
            return Err(status::invalid_list_options("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        let version = self.store.version().to_string();
        let selected: Vec<&Stored> = select(&self.store, &selector).map(AsRef::as_ref).collect();
        let list = match shape {
            Shape::Table(include) => table(selected, &version, include, now),
            Shape::Objects => json!({
                "kind": "CertificateSigningRequestList",
                "apiVersion": API_VERSION,
                "metadata": { "resourceVersion": version },
                "items": selected.into_iter().map(object).collect::<Vec<Value>>(),
            }),
        };
        Ok(Response::json(200, &list))
    }

    fn watch(&self, query: &Query, name: &str, shape: Shape) -> Result<Watcher, Response> {
        let selector = if name.is_empty() { Selector::from_query(query)? } else { Selector::named(name) };
        let timeout =
            query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).filter(|seconds| *seconds > 0);
        let timeout = timeout.map_or(WATCH, Duration::from_secs);
        let version = query.get("resourceVersion").filter(|version| !matches!(*version, "" | "0"));
        let start = match (query.get("sendInitialEvents"), version) {
            (Some("true" | "1"), _) => {
                if query.get("resourceVersionMatch") != Some("NotOlderThan") {
                    let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                    return Err(status::invalid_list_options("resourceVersionMatch", why));
                }
                Start::Objects { marked: query.flag("allowWatchBookmarks") }
            }
            (_, None) => Start::Objects { marked: false },
            (_, Some(version)) => {
                let version = version
                    .parse()
                    .map_err(|_| status::bad_request(format!("invalid resource version {version:?}")))?;
                self.check_reach(version)?;
                Start::After(version)
            }
        };
        Ok(Watcher::new(&self.store, selector, shape, &start, timeout))
    }

    /// Refuses versions the log does not reach: forgotten ones, and those of an earlier life of this server.
    fn check_reach(&self, version: u64) -> Result<(), Response> {
        let (oldest, current) = (self.store.oldest(), self.store.version());
        if version < oldest {
            return Err(status::gone(&status::expired(version, oldest)));
        }
        if version > current {
            return Err(status::gone(&status::ahead(version, current)));
        }
        Ok(())
    }

    fn delete(&mut self, request: &ApiRequest, name: &str) -> Result<Response, Response> {
        let wanted = body::preconditions(request)?;
        let metadata = &self.find(name)?.object.metadata;
        if let Some(uid) = wanted.uid.filter(|uid| *uid != metadata.uid) {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", metadata.uid);
            return Err(status::conflict(name, why));
        }
        if let Some(version) = wanted.resource_version.filter(|version| *version != metadata.resource_version) {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
                metadata.resource_version
            );
            return Err(status::conflict(name, why));
        }
        let removed = self.store.remove(name).ok_or_else(|| status::not_found(name))?;
        Ok(status::deleted(name, &removed.object.metadata.uid))
    }

    fn delete_collection(&mut self, query: &Query, now: UnixTime) -> Result<Response, Response> {
        let selector = Selector::from_query(query)?;
        let before = self.list(query, Shape::Objects, now)?;
        let names: Vec<String> =
            select(&self.store, &selector).map(|stored| stored.object.metadata.name.clone()).collect();
        for name in names {
            self.store.remove(&name);
        }
        Ok(before)
    }
}

/// The selected objects; one look-up where only one name can match.
fn select<'a>(store: &'a Store, selector: &'a Selector) -> impl Iterator<Item = &'a Arc<Stored>> {
    let one = selector.name().map(|name| store.get(name));
    let all = one.is_none().then(|| store.iter());
    one.flatten().into_iter().chain(all.into_iter().flatten()).filter(|stored| selector.matches(&stored.object))
}
