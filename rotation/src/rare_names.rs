//! The JSON of [`RareNames`], in journals and in the pending record.

use perennial::RareNames;
use serde::{Deserialize, Serialize};

/// The JSON of [`RareNames`]. A journal or record without such names has no field for them, as in earlier versions.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct RareNamesText {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uris: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    organizational_units: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    serial_number: String,
}

impl RareNamesText {
    pub(crate) fn is_empty(&self) -> bool {
        self.uris.is_empty() && self.organizational_units.is_empty() && self.serial_number.is_empty()
    }
}

impl From<&RareNames> for RareNamesText {
    fn from(names: &RareNames) -> Self {
        Self {
            uris: names.uris().to_vec(),
            organizational_units: names.organizational_units().to_vec(),
            serial_number: names.serial_number().to_owned(),
        }
    }
}

impl From<RareNamesText> for RareNames {
    fn from(RareNamesText { uris, organizational_units, serial_number }: RareNamesText) -> Self {
        Self::new().with_uris(uris).with_organizational_units(organizational_units).with_serial_number(serial_number)
    }
}
