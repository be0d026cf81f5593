//! Lists in reports for people: the beginning, and how much more there is. Programs get all of it as JSON.

use std::{collections::BTreeMap, fmt};

/// Lines of one list.
const SHOWN_MAX: usize = 20;

/// Writes the first of some lines, and how many more there are.
pub(crate) fn lines<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    all: impl IntoIterator<Item = T>,
    more: &str,
) -> fmt::Result {
    let mut all = all.into_iter();
    for line in all.by_ref().take(SHOWN_MAX) {
        writeln!(f, "{line}")?;
    }
    match all.count() {
        0 => Ok(()),
        rest => writeln!(f, "{more}: {rest} more, listed in the JSON report"),
    }
}

/// The same of what is missing by repository.
pub(crate) fn by_repository(
    f: &mut fmt::Formatter<'_>,
    missing: &BTreeMap<String, Vec<String>>,
    what: &str,
) -> fmt::Result {
    let all = missing.iter().flat_map(|(repository, blobs)| {
        blobs.iter().map(move |blob| format!("{what}{repository}: {blob}"))
    });
    lines(f, all, what.trim_end_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct List(usize);

    impl fmt::Display for List {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            lines(f, (0..self.0).map(|n| format!("  lost: {n}")), "  lost")
        }
    }

    #[test]
    fn a_long_list_ends_with_its_length() {
        assert_eq!(List(2).to_string(), "  lost: 0\n  lost: 1\n");
        assert_eq!(List(SHOWN_MAX).to_string().lines().count(), SHOWN_MAX);
        let long = List(120).to_string();
        assert_eq!(long.lines().count(), SHOWN_MAX + 1);
        assert!(long.ends_with("  lost: 100 more, listed in the JSON report\n"), "{long}");
    }
}
