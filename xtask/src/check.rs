//! The house rules as functions from a file's text to what breaks them.
//!
//! Rules: crates depend only on lower floors; versions stand in the root manifest alone; every crate takes the workspace's
//! lints; each source file begins with what it is responsible for and stays below [`LINES_MAX`]; no unfinished macros, no
//! ignored tests; a sleep in a test only between two looks at a condition, marked by a comment `poll:`; no
//! path of a particular machine anywhere.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The longest source file, in lines.
const LINES_MAX: usize = 600;

/// The floor of each room: a crate may depend on those strictly below it. Engines are above everything but the programs,
/// so that nothing can lean on one; tests may use them.
const FLOORS: &[(&str, u8)] = &[
    ("types", 0),
    ("store", 1),
    ("blobs", 1),
    ("archive", 1),
    ("transport", 1),
    ("client", 1),
    ("catalog", 2),
    ("identity", 3),
    ("access", 4),
    ("recovery", 5),
    ("cluster", 5),
    ("jobs", 6),
    ("registry", 7),
    ("api", 7),
    ("enzi", 7),
    ("service", 1),
    ("replica", 8),
    ("dtr", 9),
    ("ucp", 9),
];

/// Engines depend on the floor of what they are an engine of, and only programs and tests on them.
const ENGINES: &[&str] = &["store-embedded", "store-etcd", "blobs-s3"];

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Breach {
    /// The file, relative to the checkout.
    pub file: PathBuf,
    /// The line, from one; zero for the whole file.
    pub line: usize,
    /// What is wrong and what to do.
    pub rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.rule)
    }
}

/// The checkout that this program was built in.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Every breach in the checkout at `root`, by file and line.
pub fn all(root: &Path) -> anyhow::Result<Vec<Breach>> {
    let mut files = Vec::new();
    walk(root, root, &mut files)?;
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
        let mut breach = |line, rule: String| found.push(Breach { file: file.clone(), line, rule });
        machine_paths(&text, &mut breach);
        if file.extension().is_some_and(|e| e == "rs") {
            source(&text, is_test_file(&file), &mut breach);
        }
        if file.file_name().is_some_and(|n| n == "Cargo.toml") && file.components().count() > 1 {
            let dir = file.parent().and_then(Path::file_name).and_then(|n| n.to_str());
            manifest(dir.unwrap_or_default(), &text, &mut breach);
        }
    }
    Ok(found)
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let listing = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in listing {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        // What git ignores, and what is not ours: build output, data of a running registry, fuzzing corpora.
        if kind.is_dir()
            && ["target", ".git", "data", "corpus", "node_modules"].iter().any(|n| name == *n)
        {
            continue;
        }
        if kind.is_dir() {
            walk(root, &entry.path(), files)?;
        } else if kind.is_file() && name != ".git" && entry.metadata()?.len() < 4 << 20 {
            files.push(entry.path().strip_prefix(root)?.to_owned());
        }
    }
    Ok(())
}

fn is_test_file(file: &Path) -> bool {
    file.components().any(|c| c.as_os_str() == "tests") || file.ends_with("tests.rs")
}

/// A path below the home or work folder of somebody's machine.
fn machine_paths(text: &str, breach: &mut impl FnMut(usize, String)) {
    // Put together here so that this file does not break its own rule.
    let folders = ["work", "root", "home", "Users"].map(|folder| format!("/{folder}/"));
    for (number, line) in text.lines().enumerate() {
        for folder in &folders {
            let hit = line.match_indices(folder.as_str()).any(|(at, _)| {
                // A part of a longer path or of a URL is something else.
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-}/)$*".contains(c))
            });
            if hit {
                breach(
                    number + 1,
                    format!(
                        "a path of a particular machine ({folder}...): make it relative or a parameter"
                    ),
                );
            }
        }
    }
}

fn source(text: &str, test_file: bool, breach: &mut impl FnMut(usize, String)) {
    let unfinished = ["todo", "unimplemented"].map(|name| format!("{name}!("));
    let ignored = format!("#[{}", "ignore");
    let sleeps = ["thread", "time"].map(|module| format!("{module}::sleep("));
    if !text.starts_with("//!") {
        breach(1, "begin the file with //! and what it is responsible for".to_owned());
    }
    let count = text.lines().count();
    if count >= LINES_MAX {
        breach(0, format!("{count} lines: split it below {LINES_MAX}"));
    }
    let mut in_tests = test_file;
    let mut before = "";
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        in_tests |= line.trim_start().starts_with("#[cfg(test)]") && !line.contains(';');
        let code = line.split("//").next().unwrap_or_default();
        if unfinished.iter().any(|m| code.contains(m.as_str())) {
            breach(number, "unfinished code".to_owned());
        }
        if code.contains(&ignored) {
            breach(number, "an ignored test: make it run, or remove it".to_owned());
        }
        let polls = line.contains("poll:") || before.contains("poll:");
        if in_tests && !polls && sleeps.iter().any(|s| code.contains(s.as_str())) {
            breach(
                number,
                "a sleep in a test: wait for the condition, with a limit (mark the pause of such a loop with // poll: what for)".to_owned(),
            );
        }
        before = line;
    }
}

fn manifest(dir: &str, text: &str, breach: &mut impl FnMut(usize, String)) {
    let mut section = "";
    let mut lints = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.starts_with('[') {
            section = line;
            continue;
        }
        lints |= section == "[lints]" && line.replace(' ', "") == "workspace=true";
        let Some((left, right)) = line.split_once('=') else { continue };
        if !section.contains("dependencies") {
            continue;
        }
        let name = left.trim().trim_end_matches(".workspace");
        let of_workspace = left.trim().ends_with(".workspace")
            || right.replace(' ', "").contains("workspace=true");
        if !of_workspace {
            breach(
                index + 1,
                format!(
                    "{name}: versions stand in the root manifest; write {name}.workspace = true"
                ),
            );
        }
        if let Some(wanted) = name.strip_prefix("dtr-") {
            let for_tests = section.contains("dev-dependencies");
            if let Some(rule) = dependency(dir, wanted, for_tests) {
                breach(index + 1, rule);
            }
        }
    }
    if !lints {
        breach(0, "take the workspace's lints: [lints] workspace = true".to_owned());
    }
}

/// Why the crate in `dir` may not depend on `wanted`, if it may not.
fn dependency(dir: &str, wanted: &str, for_tests: bool) -> Option<String> {
    let floor = |name: &str| FLOORS.iter().find(|(room, _)| *room == name).map(|(_, floor)| *floor);
    if dir == "bench" || dir == "xtask" || dir == "fuzz" {
        return None;
    }
    if ENGINES.contains(&wanted) {
        // The cluster's room is about etcd and its members; whoever is above it need not know.
        let program = floor(dir).is_some_and(|floor| floor >= 8)
            || (dir, wanted) == ("cluster", "store-etcd");
        return (!program && !for_tests)
            .then(|| format!("{dir} leans on the engine {wanted}: only programs choose one"));
    }
    let own = if ENGINES.contains(&dir) { Some(2) } else { floor(dir) };
    match (own, floor(wanted)) {
        (Some(own), Some(below)) if below < own => None,
        (Some(_), Some(_)) if for_tests => None,
        (Some(_), Some(_)) => {
            Some(format!("{dir} may not depend on {wanted}: dependencies point downwards only"))
        }
        _ => Some(format!(
            "{dir} or {wanted} has no floor: add it to the table in xtask/src/check.rs and to ARCHITECTURE.md"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_keeps_the_house_rules() {
        let found = all(&root()).expect("the checkout is readable");
        let listed: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "breaches of the house rules:\n{}", listed.join("\n"));
    }

    fn breaches(check: impl FnOnce(&mut dyn FnMut(usize, String))) -> Vec<usize> {
        let mut lines = Vec::new();
        check(&mut |line, _| lines.push(line));
        lines
    }

    #[test]
    fn each_rule_of_sources_bites() {
        let text = format!(
            "fn a() {{ {}!() }}\n#[cfg(test)]\nmod tests {{\n#[{}]\n std::{}::sleep(x);\n// poll: y\n std::{}::sleep(x);\n}}\n",
            "todo", "ignore", "thread", "thread"
        );
        assert_eq!(breaches(|mut b| source(&text, false, &mut b)), [1, 1, 4, 5]);
        assert_eq!(breaches(|mut b| source("//! Good.\n", false, &mut b)), [0; 0]);
    }

    #[test]
    fn paths_of_a_machine_are_found_and_others_are_not() {
        let bad = format!("see /{}/me/x", "home");
        assert_eq!(breaches(|mut b| machine_paths(&bad, &mut b)), [1]);
        let good = "https://example.com/home/x, $dir/root/a, docker/registry/v2";
        assert_eq!(breaches(|mut b| machine_paths(good, &mut b)), [0; 0]);
    }

    #[test]
    fn dependencies_point_down() {
        assert_eq!(dependency("catalog", "store", false), None);
        assert_eq!(dependency("dtr", "store-embedded", false), None);
        assert_eq!(dependency("catalog", "store-embedded", true), None);
        assert!(dependency("catalog", "store-embedded", false).is_some());
        assert!(dependency("store", "catalog", false).is_some());
        assert!(dependency("registry", "api", false).is_some());
        assert!(dependency("archive", "store", false).is_some());
        assert!(dependency("novelty", "types", false).is_some());
    }

    #[test]
    fn versions_stand_in_the_root_manifest() {
        let text = "[lints]\nworkspace = true\n[dependencies]\nserde = \"1\"\ntokio.workspace = true\nurl = { workspace = true, features = [] }\n";
        assert_eq!(breaches(|mut b| manifest("types", text, &mut b)), [4]);
        assert_eq!(breaches(|mut b| manifest("types", "[dependencies]\n", &mut b)), [0]);
    }
}
