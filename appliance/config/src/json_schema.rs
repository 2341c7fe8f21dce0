//! The JSON Schema of the file, made from the table of keys and the manual, for editors that complete and check
//! TOML while it is typed. Rules between keys are not in it: `stoqd check` has the last word.

use serde_json::{Map, Value as Json, json};

use crate::rows::SECTIONS;
use crate::schema::{Effect, KEYS, sections, split};
use crate::{Config, ROWS_MAX, manual};

pub(crate) fn json_schema() -> Json {
    let mut properties = Map::new();
    for section in sections() {
        let keys = KEYS.iter().filter(|key| split(key.name).0 == section).map(|key| {
            let mut schema = key.kind.json_schema();
            schema["default"] = json!((key.get)(&Config::default()));
            schema["x-reloadable"] = json!(key.effect == Effect::Reload);
            describe(&mut schema, key.name);
            (split(key.name).1.to_owned(), schema)
        });
        let mut schema = object(keys.collect(), &[]);
        describe(&mut schema, section);
        insert(&mut properties, section, schema);
    }
    for section in SECTIONS {
        let keys = section.keys.iter().map(|key| {
            let mut schema = key.kind.json_schema();
            describe(&mut schema, &format!("{}.{}", section.name, key.name));
            (key.name.to_owned(), schema)
        });
        let required: Vec<&str> =
            section.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
        let mut schema = json!({
            "type": "array", "maxItems": ROWS_MAX, "items": object(keys.collect(), &required),
        });
        describe(&mut schema, section.name);
        properties.insert(section.name.to_owned(), schema);
    }
    let mut schema = object(properties, &[]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("stoqd.toml");
    schema
}

/// Puts a section where its name says: one within another below that one
fn insert(properties: &mut Map<String, Json>, section: &str, schema: Json) {
    match section.split_once('.') {
        None => drop(properties.insert(section.to_owned(), schema)),
        Some((outer, inner)) => {
            let outer = properties.entry(outer).or_insert_with(|| object(Map::new(), &[]));
            if let Some(properties) = outer["properties"].as_object_mut() {
                insert(properties, inner, schema);
            }
        }
    }
}

fn object(properties: Map<String, Json>, required: &[&str]) -> Json {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "required": required,
    })
}

fn describe(schema: &mut Json, name: &str) {
    if let Some(text) = manual::explain(name) {
        schema["description"] = json!(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_knows_every_key_with_its_limits() {
        let schema = json_schema();
        for name in Config::keys() {
            let (section, key) = split(&name);
            let of = section.split('.').fold(&schema, |of, part| &of["properties"][part]);
            let object = if of["type"] == "array" { &of["items"] } else { of };
            let found = &object["properties"][key];
            assert!(found["description"].is_string(), "{name}: {found}");
        }
        let payload = &schema["properties"]["transport"]["properties"]["max_udp_payload_bytes"];
        assert_eq!(payload["minimum"], 1_200);
        assert_eq!(payload["default"], 1_452);
        assert_eq!(schema["properties"]["service"]["items"]["required"], json!(["name", "to"]));
        assert_eq!(schema["additionalProperties"], false);
    }
}
