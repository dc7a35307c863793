//! Checks objects for fields that are not in their schema.

use serde_json::Value;

use super::openapi::{resolve, schema};
use super::resource::{Names, Resource};

/// Largest number of unknown fields that one answer reports.
const MOST: usize = 8;
/// Largest length of an unknown field's path in a warning or error, in characters. A longer path is cut.
const LONGEST: usize = 100;

/// Handling of unknown fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// Checks `object` for fields that the schema lacks. `Warn` returns a warning for each, `Strict` one error about
    /// all, and `Ignore` checks nothing.
    pub(super) fn check(self, resource: Resource, object: &Value) -> Result<Vec<String>, String> {
        if self == Self::Ignore {
            return Ok(Vec::new());
        }
        let mut unknown = Vec::new();
        find_unknown(object, schema(resource), "", &mut unknown);
        if unknown.is_empty() || self == Self::Warn {
            return Ok(unknown);
        }
        Err(format!("strict decoding error: {}", unknown.join(", ")))
    }
}

/// The message of a real API server for an object that it cannot decode.
pub(super) fn cannot_be_handled(resource: Resource, why: &str) -> String {
    let Names { kind, version, .. } = resource.names();
    format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}")
}

fn find_unknown(value: &Value, schema: &Value, path: &str, unknown: &mut Vec<String>) {
    let schema = schema.pointer("/allOf/0/$ref").and_then(Value::as_str).map_or(schema, |reference| resolve(reference));
    // Maps such as labels have no `properties` in the schema: every key is valid.
    if let (Value::Object(fields), Some(Value::Object(known))) = (value, schema.get("properties")) {
        for (key, field) in fields {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{key}");
            if let Some(schema) = known.get(key) {
                find_unknown(field, schema, &path, unknown);
            } else if unknown.len() < MOST {
                unknown.push(format!("unknown field {:?}", path.chars().take(LONGEST).collect::<String>()));
            }
        }
    } else if let (Value::Array(items), Some(schema)) = (value, schema.get("items")) {
        for (index, item) in items.iter().enumerate() {
            find_unknown(item, schema, &format!("{path}[{index}]"), unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use perennial_kubernetes::objects::{CertificateSigningRequest, Condition, PodCertificateRequest};

    const CSR: Resource = Resource::CertificateSigningRequests;

    #[test]
    fn schema_contains_all_fields_of_the_request_type() {
        let mut object = CertificateSigningRequest { kind: CSR.kind().into(), ..CertificateSigningRequest::default() };
        let metadata = &mut object.metadata;
        for field in
            [&mut metadata.name, &mut metadata.generate_name, &mut metadata.uid, &mut metadata.resource_version]
        {
            *field = "x".into();
        }
        metadata.creation_timestamp = Some("x".into());
        metadata.labels.insert("a/b".into(), "x".into());
        metadata.annotations.insert("a/b".into(), "x".into());
        let spec = &mut object.spec;
        spec.expiration_seconds = Some(1);
        for field in [&mut spec.signer_name, &mut spec.username, &mut spec.uid] {
            *field = "x".into();
        }
        spec.usages.push("x".into());
        spec.groups.push("x".into());
        spec.extra.insert("a/b".into(), vec!["x".into()]);
        object.status.certificate.push(0);
        let time = Some(String::from("x"));
        object.status.conditions.push(Condition {
            last_update_time: time.clone(),
            last_transition_time: time,
            reason: "x".into(),
            message: "x".into(),
            ..Condition::default()
        });
        let object = serde_json::to_value(&object).unwrap();
        assert_eq!(FieldValidation::Strict.check(CSR, &object), Ok(vec![]));
    }

    #[test]
    fn schema_contains_all_fields_of_pod_certificate_requests() {
        let times = json!({ "notBefore": "x", "beginRefreshAt": "x", "notAfter": "x", "certificateChain": "x" });
        let mut object = json!({
            "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x" }] },
            "spec": {
                "signerName": "x", "podName": "x", "podUID": "x", "serviceAccountName": "x", "serviceAccountUID": "x",
                "nodeName": "x", "nodeUID": "x", "maxExpirationSeconds": 1, "stubPKCS10Request": "AQ==",
                "pkixPublicKey": "AQ==", "proofOfPossession": "AQ==", "unverifiedUserAnnotations": { "a/b": "x" },
            },
            "status": times,
        });
        let condition = json!({ "type": "x", "status": "x", "reason": "x", "message": "x", "lastTransitionTime": "x" });
        object["status"]["conditions"] = json!([condition]);
        let typed: PodCertificateRequest = serde_json::from_value(object).unwrap();
        let typed = serde_json::to_value(&typed).unwrap();
        assert_eq!(typed["spec"].as_object().unwrap().len(), 12, "no field is lost");
        assert_eq!(FieldValidation::Strict.check(Resource::PodCertificateRequests, &typed), Ok(vec![]));
    }

    #[test]
    fn unknown_fields_are_reported_by_path() {
        let object = json!({
            "foo": 1,
            "metadata": { "labels": { "any": "x" }, "finalizers": [], "nmae": "x" },
            "spec": { "extra": { "any": ["x"] }, "Request": "" },
            "status": { "conditions": [{ "type": "x" }, { "reson": "y" }] },
        });
        let warnings = ["foo", "metadata.nmae", "spec.Request", "status.conditions[1].reson"];
        let warnings: Vec<String> = warnings.iter().map(|field| format!("unknown field {field:?}")).collect();
        assert_eq!(
            FieldValidation::Strict.check(CSR, &object),
            Err(format!("strict decoding error: {}", warnings.join(", ")))
        );
        assert_eq!(FieldValidation::Warn.check(CSR, &object), Ok(warnings));
        assert_eq!(FieldValidation::Ignore.check(CSR, &object), Ok(vec![]));
    }

    #[test]
    fn number_and_length_of_unknown_field_warnings_are_bounded() {
        let object: Value = (0..100).map(|n| ("é".repeat(1000) + &n.to_string(), Value::Null)).collect();
        let warnings = FieldValidation::Warn.check(CSR, &object).unwrap();
        assert!(
            warnings.len() == MOST && warnings.iter().all(|warning| warning.chars().count() < 2 * LONGEST),
            "{warnings:?}"
        );
    }
}
