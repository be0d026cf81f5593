//! The routes as OpenAPI 3.

use serde_json::{Map, Value, json};

use crate::{ROUTES, Route, Who};

/// The description of the face: made of [`ROUTES`], so that it cannot differ from them.
pub fn openapi(version: &str) -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.0.3",
        "info": {"title": "eNZi: accounts, organizations, teams, sessions, services", "version": version},
        "components": {
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "session": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {"Errors": {
                "type": "object",
                "properties": {"errors": {"type": "array", "items": {
                    "type": "object",
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                }}},
            }},
        },
        "paths": paths,
    })
}

fn operation(route: &Route) -> Value {
    let parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    let security = match route.who {
        Who::Anyone => json!([]),
        Who::Service => json!([{"session": []}]),
        _ => json!([{"basic": []}, {"session": []}]),
    };
    json!({
        "operationId": format!("{:?}", route.operation),
        "summary": route.summary,
        "description": format!("For: {:?}.", route.who),
        "parameters": parameters,
        "security": security,
        "responses": {
            "2XX": {"description": "Done."},
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Errors"}}},
            },
        },
    })
}
