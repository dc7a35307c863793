//! The verbs of `certificatesigningrequests`.

use std::sync::Arc;

use perennial::UnixTime;

use super::access::{self, Attributes};
use super::api::Api;
use super::body;
use super::identity::Identity;
use super::message::{Answer, ApiRequest, Method, Query, Response};
use super::store::{StoreError, Stored};
use super::table::{Shape, shaped};
use super::validation::{self, Part};
use super::{patch, rfc3339, status};
use crate::objects::{CertificateSigningRequest, CsrStatus};

/// A generated name is cut to this length before its suffix.
const LONGEST_PREFIX: usize = 58;
/// A cluster gives up generating names after this many collisions.
const NAME_TRIES: usize = 8;

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
            "watch" => return self.watch(&query, name, shape, now).map(Answer::Watch),
            "list" => return self.page(&query).map(|page| page.answer(shape, now)).map(Answer::Response),
            "deletecollection" => return self.delete_collection(request, &query, now).map(Answer::Response),
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

    fn delete(&mut self, request: &ApiRequest, name: &str) -> Result<Response, Response> {
        body::preconditions(request)?.check(&self.find(name)?.object.metadata)?;
        let removed = self.store.remove(name).ok_or_else(|| status::not_found(name))?;
        Ok(status::deleted(name, &removed.object.metadata.uid))
    }

    /// Deletes what LIST would show, if all of it fulfils the conditions.
    fn delete_collection(&mut self, request: &ApiRequest, query: &Query, now: UnixTime) -> Result<Response, Response> {
        let wanted = body::preconditions(request)?;
        let page = self.page(query)?;
        page.objects.iter().try_for_each(|stored| wanted.check(&stored.object.metadata))?;
        let answer = page.answer(Shape::Objects, now);
        let names: Vec<String> = page.objects.iter().map(|stored| stored.object.metadata.name.clone()).collect();
        for name in names {
            self.store.remove(&name);
        }
        Ok(answer)
    }
}
