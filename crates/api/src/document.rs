//! The OpenAPI document: the routes' own descriptions, completed by what holds for all of them. An endpoint says what is
//! its own; the refusals that each may answer, and the form of names in paths, stand here once.

use utoipa::openapi::{
    Content, ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder,
    path::{Operation, Parameter},
    schema::Schema,
};

/// Refusals that every endpoint may answer, with the reason.
const REFUSALS: [(&str, &str); 10] = [
    ("400", "A parameter or the body cannot be used"),
    ("401", "A login is needed, or the credentials are wrong or have expired"),
    ("403", "The account or its token may not do this"),
    ("404", "There is no such thing, or the account may not see it"),
    ("409", "The state of the thing forbids it"),
    ("413", "The body is too large"),
    ("415", "The body is not JSON"),
    ("429", "Too many attempts or requests; Retry-After says when to continue"),
    ("503", "Not possible right now; try again"),
    ("507", "The store or its disk is full"),
];

/// The form of each name that stands in a path: the parameter, its pattern, its greatest length.
const NAMES: [(&[&str], &str, usize); 7] = [
    (&["namespace", "username", "orgname"], "^[a-z0-9]+([._-][a-z0-9]+)*$", 100),
    (&["reponame"], "^[a-z0-9]+([._-][a-z0-9]+)*$", 150),
    (&["teamname"], "^[A-Za-z0-9._-]+$", 100),
    (&["tag"], "^[A-Za-z0-9_][A-Za-z0-9._-]*$", 128),
    (&["reference"], "^sha256:[0-9a-f]{64}$", 71),
    (&["replicaid"], "^[0-9a-f]{12}$", 12),
    (&["hashedtoken", "id"], "^[0-9a-f-]+$", 128),
];

/// Completes the document.
pub(crate) fn complete(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            add_refusals(operation);
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    shape(parameter);
                }
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.options,
        &mut item.head,
        &mut item.patch,
    ];
    all.into_iter().filter_map(Option::as_mut)
}

fn add_refusals(operation: &mut Operation) {
    for (status, reason) in REFUSALS {
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(refusal(reason)));
    }
}

fn refusal(reason: &str) -> Response {
    let errors: RefOr<Schema> = RefOr::Ref(Ref::from_schema_name("Errors"));
    let content: Content = ContentBuilder::new().schema(Some(errors)).build();
    ResponseBuilder::new().description(reason).content("application/json", content).build()
}

fn shape(parameter: &mut Parameter) {
    let form = NAMES.iter().find(|(names, ..)| names.contains(&parameter.name.as_str()));
    if let (Some((_, pattern, longest)), Some(RefOr::T(Schema::Object(schema)))) =
        (form, parameter.schema.as_mut())
        && schema.pattern.is_none()
    {
        schema.pattern = Some((*pattern).to_owned());
        schema.min_length = Some(1);
        schema.max_length = Some(*longest);
    }
}

#[cfg(test)]
mod tests {
    use crate::openapi;

    #[test]
    fn every_operation_lists_its_refusals_and_every_path_parameter_its_form() {
        let document = serde_json::to_value(openapi()).expect("is JSON");
        let mut seen = 0;
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                for (status, _) in super::REFUSALS {
                    assert!(operation["responses"][status].is_object(), "{method} {path} {status}");
                }
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let name = parameter["name"].as_str().expect("a name");
                    let has_form = parameter["schema"]["pattern"].is_string();
                    assert!(parameter["in"] != "path" || has_form, "{method} {path}: {name}");
                }
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen} operations");
    }
}
