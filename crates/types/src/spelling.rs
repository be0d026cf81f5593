//! Keys of a manifest that differ from known ones by upper and lower case alone. JSON tells them apart, and so does this
//! registry; clients written in Go do not: what they would pull is content that no reference protects here, and an
//! image could be an index to them. So such a manifest is refused when it is pushed.

use serde_json::{Map, Value};

use crate::ManifestError;

const DOCUMENT: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
];
const DESCRIPTOR: &[&str] =
    &["mediaType", "digest", "size", "urls", "data", "platform", "annotations", "artifactType"];
const PLATFORM: &[&str] =
    &["os", "architecture", "variant", "features", "os.version", "os.features"];

/// # Errors
/// [`ManifestError::Spelling`] with the first such key.
pub(crate) fn check(manifest: &[u8]) -> Result<(), ManifestError> {
    let read = serde_json::from_slice(manifest);
    let document: Value = read.map_err(|error| ManifestError::Form(error.to_string()))?;
    let Some(document) = document.as_object() else { return Ok(()) };
    keys(document, DOCUMENT)?;
    for field in ["config", "layers", "manifests", "subject"] {
        match document.get(field) {
            Some(Value::Array(entries)) => entries.iter().try_for_each(descriptor)?,
            Some(one) => descriptor(one)?,
            None => {}
        }
    }
    Ok(())
}

fn descriptor(value: &Value) -> Result<(), ManifestError> {
    let Some(entry) = value.as_object() else { return Ok(()) };
    keys(entry, DESCRIPTOR)?;
    entry.get("platform").and_then(Value::as_object).map_or(Ok(()), |p| keys(p, PLATFORM))
}

fn keys(object: &Map<String, Value>, known: &[&'static str]) -> Result<(), ManifestError> {
    for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
        if let Some(known) = known.iter().find(|known| folded(key).eq(folded(known))) {
            return Err(ManifestError::Spelling { key: key.clone(), known });
        }
    }
    Ok(())
}

/// Letters without their case, as Go compares them: two letters beyond ASCII fold to ones in it.
fn folded(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, Manifest, media_types};

    #[test]
    fn keys_that_differ_by_case_alone_are_refused() {
        let digest = Digest::of(b"{}");
        let entry = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":2}}"#);
        let type_ = media_types::OCI_MANIFEST;
        let image = |more: &str| {
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{type_}","config":{entry},"layers":[]{more}}}"#
            )
        };
        let found = |text: &str| match Manifest::parse(None, text.as_bytes()) {
            Ok(_) => None,
            Err(ManifestError::Spelling { known, .. }) => Some(known),
            Err(other) => panic!("{text}: {other}"),
        };
        assert_eq!(found(&image("")), None);
        assert_eq!(found(&image(r#","other":{"Layers":1},"annotations":{"Config":"x"}"#)), None);
        for (more, known) in [
            (format!(r#","LAYERS":[{entry}]"#), "layers"),
            (format!(r#","Manifests":[{entry}]"#), "manifests"),
            (r#","SchemaVersion":1"#.to_owned(), "schemaVersion"),
            (format!(r#","layer\u017f":[{entry}]"#), "layers"),
            (r#","Subject":null"#.to_owned(), "subject"),
        ] {
            assert_eq!(found(&image(&more)), Some(known), "{more}");
        }
        let inner =
            |field: &str| image("").replacen(r#""size":2"#, &format!(r#""size":2,{field}"#), 1);
        assert_eq!(found(&inner(r#""Digest":"x""#)), Some("digest"));
        assert_eq!(found(&inner(r#""URLs":["https://a/b"]"#)), Some("urls"));
        assert_eq!(found(&inner(r#""platform":{"OS":"linux"}"#)), Some("os"));
        // Accepted by an earlier version: it is still read.
        let old = image(&format!(r#","LAYERS":[{entry}]"#));
        assert!(Manifest::stored(None, old.as_bytes()).is_ok());
    }
}
