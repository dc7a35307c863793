//! Options of a change: `dryRun` and `fieldValidation`.

use super::fields::FieldValidation;
use super::message::{Query, Response};
use super::{status, validation};

/// The query parameters `dryRun` and `fieldValidation` of a request that writes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WriteOptions {
    /// True to check and answer the request without storing a change.
    pub(super) dry_run: bool,
    pub(super) fields: FieldValidation,
}

impl WriteOptions {
    /// Reads the options from the query of a request. For a verb that writes nothing, returns the defaults.
    pub(super) fn from_query(query: &Query, verb: &str) -> Result<Self, Response> {
        let kind = match verb {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            _ => return Ok(Self::default()),
        };
        let fields = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let cause = validation::not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]);
                return Err(status::invalid_options(kind, cause));
            }
        };
        let dry_run = query.get("dryRun").into_iter();
        Ok(Self { dry_run: is_dry_run(dry_run, kind)?, fields })
    }
}

/// True if `dryRun` has the value `All`; false without a value. Any other value is an error.
pub(super) fn is_dry_run<'a>(values: impl Iterator<Item = &'a str>, kind: &str) -> Result<bool, Response> {
    let mut dry_run = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(status::invalid_options(kind, validation::not_supported("dryRun", value, &["All"])));
        }
        dry_run = true;
    }
    Ok(dry_run)
}
