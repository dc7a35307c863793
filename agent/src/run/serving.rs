//! The serving certificate that is rotated: as whom it is requested, and for which addresses.

use perennial::Template;
use perennial_rotation::{NotYet, Rotator};

use super::addresses::Addresses;
use super::cert_reporter::CertReporter;
use super::node::{self, NodeIdentity};
use super::node_object::NodeObject;
use super::outside::Outside;
use super::prepared::Prepared;
use super::settings::ServingSettings;
use crate::cli::SERVING_PREFIX;
use crate::failure::Failure;
use crate::report::Report;

/// The rotation of the serving certificate.
pub(super) struct Serving {
    pub(super) reporter: CertReporter,
    node: NodeIdentity,
    /// The Node object, if the addresses are those of the object.
    object: Option<NodeObject>,
    /// What certificates are requested for, and why not for anything else, when last looked at.
    checked: (Option<Template>, Option<NotYet>),
}

impl Serving {
    /// Starts the rotation, if this configuration wants one. Nothing is requested before the first look at the addresses.
    pub(super) fn start(
        outside: &Outside<'_>,
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
        outside.begin_hook(SERVING_PREFIX, store, &common_name);
        let signer = config.settings.client.serving_signer(outside.options, cluster, node);
        let rotator = Rotator::new()
            .name(SERVING_PREFIX)
            .policy(config.settings.policy.clone())
            .common_name(common_name)
            .signer(signer);
        let reporter = outside.start(SERVING_PREFIX, rotator, store)?;
        let (node, checked) = (node.clone(), (None, None));
        let mut serving = Self { reporter, node, object: None, checked };
        serving.start_object(outside, config)?;
        Ok(Some(serving))
    }

    /// Goes on with the next configuration, which wants a serving certificate, too.
    pub(super) fn reload(&mut self, outside: &Outside<'_>, config: &Prepared, next: &Prepared) -> Result<(), Failure> {
        if config.settings.serving != next.settings.serving || !next.asks_like(config) {
            self.start_object(outside, next)?;
        } else if let Some(object) = &self.object {
            object.poll_now();
        }
        if !next.asks_like(config) {
            let (client, cluster) = (&next.settings.client, next.access.server.cluster.clone());
            let signer = client.serving_signer(outside.options, cluster, &self.node);
            self.reporter.rotation.handle().set_signer(Some(signer));
        }
        Ok(())
    }

    fn start_object(&mut self, outside: &Outside<'_>, config: &Prepared) -> Result<(), Failure> {
        self.object = match &config.settings.serving {
            ServingSettings::Rotated { node: name, addresses: Addresses::Cluster(_) } => {
                let (cluster, node) = (config.access.server.cluster.clone(), self.node.clone());
                Some(NodeObject::start(name, cluster, node, outside.wakes.waker())?)
            }
            _ => None,
        };
        Ok(())
    }

    /// Requests the certificate once its addresses are known, and again when they change.
    pub(super) fn poll_addresses(&mut self, config: &Prepared, report: &mut Report) {
        let ServingSettings::Rotated { node, addresses } = &config.settings.serving else { return };
        let (template, missing) = match addresses.template(node, self.object.as_ref()) {
            Ok(Some(template)) => (Some(template), None),
            Ok(None) => (None, Some(NotYet::new("there is no IP address to ask for"))),
            // What was read before is still the best that is known.
            Err(why) => (self.checked.0.clone(), Some(why)),
        };
        // Nothing is wrong yet while the addresses are coming.
        let trouble = missing.as_ref().filter(|why| !why.is_coming());
        if let Some(trouble) = trouble.filter(|_| missing != self.checked.1) {
            tracing::warn!("{SERVING_PREFIX}: {trouble}");
        }
        if template != self.checked.0 {
            let what = template.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
            tracing::info!("{SERVING_PREFIX}: certificates are requested for {what}");
            self.reporter.rotation.handle().set_template(template.clone());
        }
        let blocked_on = missing.as_ref().filter(|_| template.is_none());
        self.reporter.set_blocked_on(blocked_on, report);
        self.checked = (template, missing);
    }
}
