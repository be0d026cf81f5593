//! Settings that are taken must have an effect: each field of the records that people change is read by something besides the code
//! that stores and shows it.

use std::{fs, path::Path};

use anyhow::Context as _;

/// The records, and the files that store and show them.
const RECORDS: &[(&str, &str, &[&str])] = &[
    ("crates/catalog/src/records/settings.rs", "Settings", &["crates/api/src/meta.rs"]),
    ("crates/catalog/src/records/repository.rs", "Repository", &["crates/api/src/repositories.rs"]),
];

/// Fields of which only the value without effect is accepted, and those that are for people to read.
const NO_EFFECT: &[&str] = &[
    "disable_persistent_cookies",
    "scan_on_push",
    "namespace_is_org",
    "short_description",
    "long_description",
    "created_at",
];

/// Fields that nothing reads.
///
/// # Errors
/// When the checkout cannot be read.
pub fn unread(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut sources = Vec::new();
    for room in fs::read_dir(root.join("crates"))? {
        read(&room?.path().join("src"), &mut sources)?;
    }
    let mut found = Vec::new();
    for (file, record, shown) in RECORDS {
        let text = fs::read_to_string(root.join(file)).with_context(|| (*file).to_owned())?;
        let own =
            |path: &str| path.ends_with(file) || shown.iter().any(|file| path.ends_with(file));
        let others = sources.iter().filter(|(path, _)| !own(path)).map(|(_, text)| text.as_str());
        let others: Vec<&str> = others.collect();
        let fields = fields(&text, record);
        anyhow::ensure!(!fields.is_empty(), "{file} has no {record}");
        found.extend(unread_of(&fields, &others).into_iter().map(|field| {
            format!(
                "{file}: nothing reads {field}: give it an effect, or refuse what would have none"
            )
        }));
    }
    Ok(found)
}

fn read(folder: &Path, into: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, into)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push((path.display().to_string(), fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The public fields of a struct.
fn fields<'a>(text: &'a str, record: &str) -> Vec<&'a str> {
    let begin = format!("pub struct {record} {{");
    let lines = text.lines().skip_while(|line| *line != begin).take_while(|line| *line != "}");
    let field = |line: &'a str| line.trim().strip_prefix("pub ")?.split_once(':');
    lines.skip(1).filter_map(field).map(|(name, _)| name).collect()
}

fn unread_of<'a>(fields: &[&'a str], sources: &[&str]) -> Vec<&'a str> {
    let is_read = |field: &str| {
        let access = format!(".{field}");
        sources.iter().any(|text| {
            text.match_indices(&access).any(|(at, _)| {
                let next = text[at + access.len()..].chars().next();
                !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
            })
        })
    };
    let unread = |field: &&&str| !NO_EFFECT.contains(*field) && !is_read(field);
    fields.iter().filter(unread).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_an_effect() {
        let found = unread(&crate::check::root()).expect("the checkout is readable");
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn one_that_nothing_reads_is_found() {
        let text = "pub struct Settings {\n    /// Of use.\n    pub used: bool,\n    pub used_not: bool,\n}\npub struct Other {\n    pub x: u8,\n}\n";
        let fields = fields(text, "Settings");
        assert_eq!(fields, ["used", "used_not"]);
        assert_eq!(
            unread_of(&fields, &["if settings.used {}", "let used_not = true;"]),
            ["used_not"]
        );
        assert_eq!(unread_of(&fields, &["s.used_not && t.used"]), [""; 0]);
    }
}
