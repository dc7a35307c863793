//! The JSON of names that few certificates have, in journals and in the pending record.

use perennial::Template;
use serde::{Deserialize, Serialize};

/// The JSON of the names of a template that few certificates have. A journal or record without such names has no field
/// for them, as in earlier versions.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct RareNames {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uris: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    organizational_units: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    serial_number: String,
}

impl RareNames {
    pub(crate) fn of(template: &Template) -> Self {
        Self {
            uris: template.uris().map(Into::into).collect(),
            organizational_units: template.organizational_units().map(Into::into).collect(),
            serial_number: template.serial_number().to_owned(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.uris.is_empty() && self.organizational_units.is_empty() && self.serial_number.is_empty()
    }

    /// Adds these names to the names of `template`.
    pub(crate) fn added_to(self, template: Template) -> Template {
        let Self { uris, organizational_units, serial_number } = self;
        template.with_uris(uris).with_organizational_units(organizational_units).with_serial_number(serial_number)
    }
}
