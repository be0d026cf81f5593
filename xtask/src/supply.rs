//! What comes from others: which crates are built into the product, from where, under which licences, and whether an advisory
//! speaks of one of them. Read from what `cargo tree` says that is built; `cargo metadata` also lists optional crates that
//! nothing switches on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::Context as _;
use semver::{Version, VersionReq};

/// Licences that may be linked into the product without asking anybody.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
];

/// Crates that must not come in, not even below others, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl", "TLS is rustls"),
    ("openssl-sys", "TLS is rustls"),
    ("native-tls", "TLS is rustls"),
    ("ring", "cryptography is aws-lc-rs, and one such library is enough to keep up to date"),
    ("serde_yaml", "it is no longer maintained"),
];

/// Crates of which two versions would be two places to mend when one has a hole.
const ONCE: &[&str] =
    &["age", "aws-lc-rs", "h2", "hyper", "redb", "rustls", "rustls-webpki", "tar", "tokio"];

/// A crate that is built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Built {
    name: String,
    version: String,
    /// Where it comes from when that is not the usual registry.
    source: Option<String>,
    licence: String,
}

/// What breaks a rule in the checkout at `root`.
///
/// # Errors
/// When cargo cannot say what is built.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let built = built(root)?;
    anyhow::ensure!(built.len() > 100, "cargo tree lists {} crates only", built.len());
    Ok(judge(&built, &root.display().to_string()))
}

/// Advisories of the database in folder `db` that speak of a crate that is built: those to act on, and those that only inform.
///
/// # Errors
/// When cargo cannot say what is built, or the folder is no database.
pub fn advisories(root: &Path, db: &Path) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let mut known: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    for Built { name, version, .. } in built(root)? {
        let version = version.parse().with_context(|| format!("the version of {name}"))?;
        known.entry(name).or_default().push(version);
    }
    let (mut act, mut informed, mut read) = (Vec::new(), Vec::new(), 0);
    let crates = db.join("crates");
    let folders = fs::read_dir(&crates)
        .with_context(|| format!("{} is no advisory database", db.display()))?;
    for folder in folders {
        let folder = folder?;
        let Some(versions) = folder.file_name().to_str().and_then(|name| known.get(name)) else {
            read += 1;
            continue;
        };
        for file in fs::read_dir(folder.path())? {
            let path = file?.path();
            if path.extension().is_none_or(|end| end != "md") {
                continue;
            }
            read += 1;
            let text = fs::read_to_string(&path)?;
            let advisory = Advisory::parse(&text)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            for version in versions.iter().filter(|version| advisory.affects(version)) {
                let line = format!("{}: {} {version}", advisory.id, advisory.package);
                if advisory.informs { informed.push(line) } else { act.push(line) }
            }
        }
    }
    anyhow::ensure!(read > 0, "{} has no advisory in it", crates.display());
    Ok((act, informed))
}

fn built(root: &Path) -> anyhow::Result<BTreeSet<Built>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = ["tree", "--workspace", "--locked", "--offline", "--target", "all"];
    let form = ["-e", "normal,build,dev", "--prefix", "none", "--no-dedupe", "-f", "{p}|{l}"];
    let out = Command::new(cargo).args(tree).args(form).current_dir(root).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(out.status.success(), "cargo tree: {said}");
    Ok(parse(&String::from_utf8_lossy(&out.stdout)))
}

/// Lines such as `name v1.2.3 (proc-macro)|MIT OR Apache-2.0`.
fn parse(tree: &str) -> BTreeSet<Built> {
    let line = |line: &str| {
        let (package, licence) = line.split_once('|')?;
        let (name, rest) = package.split_once(" v")?;
        let (version, marks) = rest.split_once(' ').unwrap_or((rest, ""));
        let source = marks
            .split(['(', ')'])
            .map(str::trim)
            .find(|mark| !mark.is_empty() && *mark != "proc-macro" && *mark != "*");
        Some(Built {
            name: name.to_owned(),
            version: version.to_owned(),
            source: source.map(ToOwned::to_owned),
            licence: licence.trim_end_matches("(*)").trim().to_owned(),
        })
    };
    tree.lines().filter_map(line).collect()
}

fn judge(built: &BTreeSet<Built>, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Built { name, version, source, licence } in built {
        versions.entry(name).or_default().insert(version);
        if let Some(source) = source
            && !source.starts_with(root)
        {
            found.push(format!("{name} {version} comes from {source}: only the usual registry"));
        }
        if !is_allowed(licence) {
            found.push(format!(
                "{name} {version} has the licence \"{licence}\", which is not on the list"
            ));
        }
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| banned == name) {
            found.push(format!("{name} {version} must not come in: {why}"));
        }
    }
    for (name, versions) in versions {
        if ONCE.contains(&name) && versions.len() > 1 {
            let versions: Vec<_> = versions.into_iter().collect();
            found.push(format!("{name} is there in several versions: {}", versions.join(", ")));
        }
    }
    found
}

/// Whether a licence expression (SPDX, or the older form with a slash for "or") can be met by the list.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = all_of(words)?;
    while let [first, rest @ ..] = *words
        && *first == "OR"
    {
        *words = rest;
        allowed |= all_of(words)?;
    }
    Some(allowed)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(words)?;
    while let [first, rest @ ..] = *words
        && *first == "AND"
    {
        *words = rest;
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    let [first, rest @ ..] = *words else { return None };
    *words = rest;
    if *first == "(" {
        let inner = any_of(words)?;
        let [")", rest @ ..] = *words else { return None };
        *words = rest;
        return Some(inner);
    }
    // An exception only permits more.
    if let ["WITH", _, rest @ ..] = *words {
        *words = rest;
    }
    Some(LICENCES.contains(first))
}

/// What is needed of an advisory.
#[derive(Debug)]
struct Advisory {
    id: String,
    package: String,
    withdrawn: bool,
    /// It tells of something that is no hole, such as that nobody maintains the crate.
    informs: bool,
    patched: Vec<VersionReq>,
    unaffected: Vec<VersionReq>,
}

impl Advisory {
    /// From a file that begins with a block of TOML.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let block = text.split("```").nth(1).context("it has no block of TOML")?;
        let value = |key: &str| {
            let at = block.lines().position(|line| {
                line.split_once('=').is_some_and(|(name, _)| name.trim() == key)
            })?;
            let (_, value) = block.lines().nth(at)?.split_once('=')?;
            let mut value = value.trim().to_owned();
            for line in block.lines().skip(at + 1) {
                if !value.starts_with('[') || value.ends_with(']') {
                    break;
                }
                value.push_str(line.trim());
            }
            Some(value)
        };
        let text = |key: &str| value(key).map(|value| value.trim_matches('"').to_owned());
        let list = |key: &str| -> anyhow::Result<Vec<VersionReq>> {
            let value = value(key).unwrap_or_default();
            // The words between quotes.
            let words = value.split('"').skip(1).step_by(2);
            words.map(|word| word.parse().with_context(|| format!("{key}: {word}"))).collect()
        };
        Ok(Self {
            id: text("id").context("it has no id")?,
            package: text("package").context("it names no package")?,
            withdrawn: value("withdrawn").is_some(),
            informs: value("informational").is_some_and(|kind| kind != "\"unsound\""),
            patched: list("patched")?,
            unaffected: list("unaffected")?,
        })
    }

    fn affects(&self, version: &Version) -> bool {
        let good = self.patched.iter().chain(&self.unaffected);
        !self.withdrawn && !good.into_iter().any(|range| range.matches(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a tree with one more line in it than a good one.
    fn said(line: &str) -> Vec<String> {
        let good = "dtr v0.1.0 (/checkout/crates/dtr)|Apache-2.0\nrustls v0.23.46|Apache-2.0 OR ISC OR MIT\n\
                    serde_derive v1.0.0 (proc-macro)|MIT OR Apache-2.0 (*)\n";
        judge(&parse(&format!("{good}{line}\n")), "/checkout")
    }

    #[test]
    fn this_checkout_keeps_the_rules() {
        let found = check(&crate::check::root()).expect("cargo says what is built");
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn each_rule_bites() {
        assert_eq!(said(""), Vec::<String>::new());
        for (line, rule) in [
            ("x v1.0.0 (https://example.com/x#0123)|MIT", "comes from https://example.com"),
            ("x v1.0.0 (/elsewhere/x)|MIT", "comes from /elsewhere/x"),
            ("x v1.0.0 (registry `other`)|MIT", "comes from registry"),
            ("x v1.0.0|GPL-3.0-only", "not on the list"),
            ("x v1.0.0|MIT AND GPL-3.0-only", "not on the list"),
            ("x v1.0.0|", "not on the list"),
            ("openssl-sys v0.9.0|MIT", "must not come in: TLS is rustls"),
            ("ring v0.17.0|Apache-2.0 AND ISC", "must not come in: cryptography"),
            ("rustls v0.22.0|MIT", "several versions: 0.22.0, 0.23.46"),
        ] {
            let found = said(line);
            assert!(found.len() == 1 && found[0].contains(rule), "{line}: {found:?}");
        }
    }

    #[test]
    fn licences_are_read_as_they_are_written() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-2.0-only OR MIT",
            "(MIT OR X) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "X AND (MIT OR ISC)", "AND"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn advisories_are_told_for_the_versions_that_they_speak_of() {
        let text = |more: &str, patched: &str| {
            format!(
                "```toml\n[advisory]\nid = \"RUSTSEC-2026-0001\"\npackage = \"x\"\n{more}\n[versions]\npatched = {patched}\n\
                 unaffected = [\"< 0.5\"]\n```\n\n# A hole\n"
            )
        };
        let of = |text: String| Advisory::parse(&text).expect("is read");
        let version = |text: &str| text.parse::<Version>().expect("a version");
        let advisory = of(text("", "[\n  \">= 1.2.3\",\n  \"^0.9.7\",\n]"));
        for (tried, affected) in
            [("1.2.2", true), ("1.2.3", false), ("0.9.6", true), ("0.9.8", false), ("0.4.0", false)]
        {
            assert_eq!(advisory.affects(&version(tried)), affected, "{tried}");
        }
        assert!(of(text("", "[]")).affects(&version("9.0.0")), "never mended");
        assert!(!of(text("withdrawn = \"2026-01-01\"", "[]")).affects(&version("9.0.0")));
        assert!(of(text("informational = \"unmaintained\"", "[]")).informs);
        assert!(!of(text("informational = \"unsound\"", "[]")).informs);
        assert!(Advisory::parse("# nothing").is_err());
    }

    #[test]
    fn a_database_is_read_by_the_crates_that_are_built() {
        let db = tempfile::tempdir().expect("a folder");
        let root = crate::check::root();
        assert!(advisories(&root, db.path()).is_err(), "an empty folder is no database");
        let write = |package: &str, patched: &str| {
            let folder = db.path().join("crates").join(package);
            fs::create_dir_all(&folder).expect("made");
            let text = format!(
                "```toml\n[advisory]\nid = \"RUSTSEC-2026-0002\"\npackage = \"{package}\"\n[versions]\npatched = {patched}\n```\n"
            );
            fs::write(folder.join("RUSTSEC-2026-0002.md"), text).expect("written");
        };
        write("rustls", "[\">= 99.0.0\"]");
        write("hyper", "[\">= 0.1.0\"]");
        write("a-crate-that-nobody-has", "[]");
        let (act, informed) = advisories(&root, db.path()).expect("is read");
        assert!(act.len() == 1 && act[0].starts_with("RUSTSEC-2026-0002: rustls "), "{act:?}");
        assert_eq!(informed, Vec::<String>::new());
    }
}
