//! The verbs that clients may use on `certificatesigningrequests`, such as `create` and `watch`.

use std::sync::Arc;

use http::Method;
use perennial::UnixTime;

use super::Api;
use super::access::{self, Attributes};
use super::body;
use super::message::{Answer, ApiRequest, Query, Response};
use super::options::WriteOptions;
use super::store::Stored;
use super::table::{Shape, shaped};
use super::user::User;
use super::validation::{self, Subresource};
use super::{metadata, patch, rfc3339, status};
use perennial_kubernetes::objects::{CertificateSigningRequest, CsrStatus};

/// `generateName` is cut to this length, in characters, before the random suffix is appended.
const LONGEST_PREFIX: usize = 58;
/// Number of attempts to generate a free name, as in a cluster.
const NAME_TRIES: usize = 8;

/// One operation on request objects: user, name, subresource, dry run and time.
pub(super) struct Call<'a> {
    pub(super) user: &'a User,
    pub(super) name: &'a str,
    pub(super) subresource: Option<Subresource>,
    /// True to check and answer the request without storing a change.
    pub(super) dry_run: bool,
    pub(super) now: UnixTime,
}

impl Api {
    /// Answers a request for all certificate signing requests or for one. `rest` is the path after
    /// `certificatesigningrequests`: empty, a name, or a name and a subresource.
    pub(super) fn collection(
        &mut self,
        request: &ApiRequest,
        user: &User,
        rest: &[&str],
        now: UnixTime,
    ) -> Result<Answer, Response> {
        let query = request.query();
        let (name, subresource, part) = match *rest {
            [] => ("", "", None),
            [name] => (name, "", None),
            [name, "approval"] => (name, "approval", Some(Subresource::Approval)),
            [name, "status"] => (name, "status", Some(Subresource::Status)),
            _ => return Err(status::no_such_resource()),
        };
        let verb = match (&request.method, name) {
            (&Method::GET, _) if query.flag("watch") => "watch",
            (&Method::GET, "") => "list",
            (&Method::GET, _) => "get",
            (&Method::POST, "") => "create",
            (&Method::PUT, name) if !name.is_empty() => "update",
            (&Method::PATCH, name) if !name.is_empty() => "patch",
            (&Method::DELETE, "") => "deletecollection",
            (&Method::DELETE, _) if part.is_none() => "delete",
            _ => return Err(status::method_not_allowed()),
        };
        let (group, resource) = (status::GROUP, status::RESOURCE);
        access::authorize(user, &Attributes { verb, group, resource, subresource, name })?;
        let shape = Shape::accepted(&request.accept, &query).ok_or_else(status::not_acceptable)?;
        let options = WriteOptions::from_query(&query, verb)?;
        let call = Call { user, name, subresource: part, dry_run: options.dry_run, now };
        let (code, stored, warnings) = match verb {
            "watch" => return self.watch(&query, name, shape, now).map(Answer::Watch),
            "list" => return self.list(&query, shape, now).map(Answer::List),
            "deletecollection" => return self.delete_collection(request, &query, &call),
            "delete" => return self.delete(request, &call).map(Answer::Response),
            "get" => (200, Arc::clone(self.find(name)?), Vec::new()),
            "create" => {
                let (csr, warnings) = body::csr(request, options.fields)?;
                (201, self.create(csr, &call)?, warnings)
            }
            _ => {
                let (csr, warnings) = match verb {
                    "patch" => patch::apply(request, &self.find(name)?.object, options.fields)?,
                    _ => body::csr(request, options.fields)?,
                };
                (200, self.update(csr, &call)?, warnings)
            }
        };
        Ok(Answer::Response(Response { warnings, ..Response::written(code, shaped(&stored, shape, now).into_owned()) }))
    }

    pub(super) fn find(&self, name: &str) -> Result<&Arc<Stored>, Response> {
        self.store.get(name).ok_or_else(|| status::not_found(name))
    }

    fn create(
        &mut self,
        mut csr: CertificateSigningRequest,
        &Call { user, dry_run, now, .. }: &Call<'_>,
    ) -> Result<Arc<Stored>, Response> {
        self.name(&mut csr)?;
        if self.options.minor < 22 {
            // Servers before 1.22 drop this unknown field.
            csr.spec.expiration_seconds = None;
        }
        let name = csr.metadata.name.clone();
        // In a cluster, NodeRestriction is mutating admission, which comes before validation.
        access::restrict_node(user, &name, &csr.spec)?;
        let mut causes = metadata::check(&csr.metadata);
        let request = validation::create(&csr.spec, self.options.allow_short, &mut causes)
            .filter(|_| causes.is_empty())
            .ok_or_else(|| status::invalid(&name, causes))?;
        // CertificateSubjectRestriction is validating admission, which comes after validation.
        access::restrict_subject(&request, &name, &csr.spec)?;

        // From here on the server's own fields, whatever the object contained (`PrepareForCreate`).
        csr.metadata.uid = self.random.uid();
        csr.metadata.creation_timestamp = Some(rfc3339(now));
        csr.metadata.resource_version = String::new();
        csr.spec.username.clone_from(&user.username);
        csr.spec.uid = String::new();
        csr.spec.groups.clone_from(&user.groups);
        csr.spec.extra.clone_from(&user.extra);
        csr.status = CsrStatus::default();
        if self.store.get(&name).is_some() {
            return Err(status::already_exists(&name));
        }
        if !self.store.has_room(None, &csr) {
            return Err(status::store_full(&self.options));
        }
        // After all checks: a dry run fails whenever the write would.
        if dry_run {
            return Ok(Arc::new(Stored::new(csr, 0, now)));
        }
        let stored = self.store.insert(csr, now);
        self.schedule(&name, now);
        Ok(stored)
    }

    /// Generates a name from `generateName`, unless the object has a name. If both fields are empty, the name stays
    /// empty, and the validation refuses the object.
    fn name(&mut self, csr: &mut CertificateSigningRequest) -> Result<(), Response> {
        let metadata = &mut csr.metadata;
        if !metadata.name.is_empty() || metadata.generate_name.is_empty() {
            return Ok(());
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

    fn delete(&mut self, request: &ApiRequest, call: &Call<'_>) -> Result<Response, Response> {
        let wanted = body::delete_options(request)?;
        let metadata = &self.find(call.name)?.object.metadata;
        wanted.preconditions.check(metadata)?;
        let answer = status::deleted(call.name, &metadata.uid);
        if !(call.dry_run || wanted.dry_run()?) {
            self.store.remove(call.name);
        }
        Ok(answer)
    }

    /// Deletes the objects that LIST with the same query returns. Deletes none if one of them does not fulfil the
    /// preconditions.
    fn delete_collection(&mut self, request: &ApiRequest, query: &Query, call: &Call<'_>) -> Result<Answer, Response> {
        let wanted = body::delete_options(request)?;
        let dry_run = call.dry_run || wanted.dry_run()?;
        let mut list = self.list(query, Shape::Objects, call.now)?;
        let objects = list.objects.as_slice();
        objects.iter().try_for_each(|stored| wanted.preconditions.check(&stored.object.metadata))?;
        for stored in objects.iter().filter(|_| !dry_run) {
            self.store.remove(&stored.object.metadata.name);
        }
        // The deletions may have removed the list's version from the log: its objects are still to be written.
        list.version = self.store.version();
        Ok(Answer::List(list))
    }
}
