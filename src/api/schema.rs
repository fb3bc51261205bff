//! Adjustments of single fields' schemas that the derive macros cannot express.

use schemars::{Schema, json_schema};
use serde_json::Value;

/// Bounds the values of a map of strings.
pub(super) fn values_at_most<const MAX: u64>(schema: &mut Schema) {
    if let Some(values) = schema
        .get_mut("additionalProperties")
        .and_then(Value::as_object_mut)
    {
        values.insert("maxLength".to_owned(), MAX.into());
    }
}

/// The schema of `metav1.Condition` with the bounds that its Go type has by its markers, and with
/// descriptions of our conditions.
pub(super) fn condition(schema: &mut Schema) {
    let condition = json_schema!({
        "type": "object",
        "description": "What the operator found out about one aspect of the resource.",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "type": {
                "type": "string",
                "description": "Ready, Synced or Verified.",
                "maxLength": 316,
            },
            "status": {
                "type": "string",
                "description": "True, False or Unknown.",
                "enum": ["True", "False", "Unknown"],
            },
            "reason": {
                "type": "string",
                "description": "Why the status is what it is, in one word.",
                "minLength": 1,
                "maxLength": 1024,
            },
            "message": {
                "type": "string",
                "description": "What happened, its likely cause, and the next step.",
                "maxLength": 32768,
            },
            "lastTransitionTime": {
                "type": "string",
                "format": "date-time",
                "description": "When the status last changed.",
                "maxLength": 64,
            },
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "The generation of the spec that the condition answers to.",
                "minimum": 0,
            },
        },
    });
    schema.insert("items".to_owned(), condition.to_value());
}
