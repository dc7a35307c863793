//! The serving certificate that perennial rotates. Its template follows the node's addresses.

use perennial::Template;
use perennial_rotation::{NotYet, Rotator};

use super::addresses::Addresses;
use super::cert_reporter::CertReporter;
use super::context::Context;
use super::node::{self, NodeIdentity};
use super::node_object::NodeObject;
use super::prepared::Prepared;
use super::settings::ServingSettings;
use crate::cli::SERVING_PREFIX;
use crate::failure::Failure;
use crate::report::Report;

/// The rotation of the serving certificate.
pub(super) struct Serving {
    pub(super) reporter: CertReporter,
    node: NodeIdentity,
    /// The thread that polls the Node object; `None` if the addresses have another source.
    object: Option<NodeObject>,
    /// The template of requests, by the addresses that were known last; `None` before any address is known, and if
    /// there is none any more.
    template: Option<Template>,
    /// The reason why the last poll found no addresses; `None` if the poll found some.
    missing: Option<NotYet>,
}

impl Serving {
    /// Starts the rotation of the serving certificate; `None` if the configuration wants no such rotation. No request
    /// is submitted before the first [`poll_addresses`](Self::poll_addresses).
    ///
    /// # Errors
    /// If the rotation cannot be prepared, or the system refuses a thread or descriptor.
    pub(super) fn start(
        context: &Context<'_>,
        config: &Prepared,
        node: &NodeIdentity,
    ) -> Result<Option<Self>, Failure> {
        let (ServingSettings::Rotated { node: name, .. }, Some(store)) =
            (&config.settings.serving, &config.stores.serving)
        else {
            return Ok(None);
        };
        let cluster = config.access.server.cluster.clone();
        let common_name = node::common_name(name);
        context.begin_hook(SERVING_PREFIX, store, &common_name);
        let signer = config.settings.client.serving_signer(context.options, cluster, node);
        let rotator = Rotator::new()
            .name(SERVING_PREFIX)
            .policy(config.settings.policy.clone())
            .common_name(common_name)
            .signer(signer);
        let reporter = context.start(SERVING_PREFIX, rotator, store)?;
        let mut serving = Self { reporter, node: node.clone(), object: None, template: None, missing: None };
        serving.start_object(context, config)?;
        Ok(Some(serving))
    }

    /// Applies the configuration `next` to the running rotation. `next` must want a serving certificate, too.
    ///
    /// # Errors
    /// If the system refuses a thread for the Node object.
    pub(super) fn reload(&mut self, context: &Context<'_>, config: &Prepared, next: &Prepared) -> Result<(), Failure> {
        if config.settings.serving != next.settings.serving || !next.requests_like(config) {
            self.start_object(context, next)?;
        } else if let Some(object) = &self.object {
            object.poll_now();
        }
        if !next.requests_like(config) {
            let (client, cluster) = (&next.settings.client, next.access.server.cluster.clone());
            let signer = client.serving_signer(context.options, cluster, &self.node);
            self.reporter.rotation.handle().set_signer(Some(signer));
        }
        Ok(())
    }

    fn start_object(&mut self, context: &Context<'_>, config: &Prepared) -> Result<(), Failure> {
        self.object = match &config.settings.serving {
            ServingSettings::Rotated { node: name, addresses: Addresses::Cluster(_) } => {
                let (cluster, node) = (config.access.server.cluster.clone(), self.node.clone());
                Some(NodeObject::start(name, cluster, node, context.wakes.waker())?)
            }
            _ => None,
        };
        Ok(())
    }

    /// Reads the addresses. Sets the template of the rotation when the addresses are first known or have changed, so
    /// that a request becomes due. Logs and reports why the addresses are not known.
    pub(super) fn poll_addresses(&mut self, config: &Prepared, report: &Report) {
        let ServingSettings::Rotated { node, addresses } = &config.settings.serving else { return };
        let (template, missing) = match addresses.template(node, self.object.as_ref()) {
            Ok(Some(template)) => (Some(template), None),
            Ok(None) => (None, Some(NotYet::new("there is no IP address for the certificate"))),
            // Keeps the template of the addresses that were known last.
            Err(why) => (self.template.clone(), Some(why)),
        };
        // Waiting for the client certificate or the first poll is no trouble.
        let trouble = missing.as_ref().filter(|why| !why.is_coming());
        if let Some(trouble) = trouble.filter(|_| missing != self.missing) {
            tracing::warn!("{SERVING_PREFIX}: {trouble}");
        }
        if template != self.template {
            let what = template.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
            tracing::info!("{SERVING_PREFIX}: names to request: {what}");
            if let Err(error) = self.reporter.rotation.handle().set_template(template.clone()) {
                tracing::error!("{SERVING_PREFIX}: {error}; continuing with the names requested until now");
            }
        }
        let blocked_on = missing.as_ref().filter(|_| template.is_none());
        self.reporter.set_blocked_on(blocked_on, report);
        (self.template, self.missing) = (template, missing);
    }
}
