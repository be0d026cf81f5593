//! The verdict of the conformance test of OCI's distribution specification, from the report that it writes.

use std::fmt;

use anyhow::ensure;

/// The number of cases that must have passed. The tool has more than 680 of the released version; a report without them
/// is one of a run that reached nothing, or has a form that is not known here.
const LEAST: usize = 650;

/// The outcomes of the cases of one run.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcomes {
    passed: usize,
    failed: usize,
}

impl Outcomes {
    /// Reads a report (`junit.xml`). The outcome of a case is its attribute `status`; the elements that JUnit has for
    /// failures are absent, also when a case failed.
    pub fn of(report: &str) -> Self {
        let count = |status: &str| {
            report
                .split("<testcase ")
                .skip(1)
                .filter(|case| {
                    let head = case.split('>').next().unwrap_or_default();
                    head.contains(&format!("status=\"{status}\""))
                })
                .count()
        };
        Self { passed: count("passed"), failed: count("failure") + count("error") }
    }

    /// Returns an error unless all that ran passed, and enough ran.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.failed == 0 && self.passed >= LEAST, "{self}; at least {LEAST} must pass");
        Ok(())
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(passed: usize, failed: usize) -> String {
        let case = |status| format!("<testcase name=\"a &gt; b\" status=\"{status}\"></testcase>");
        case("passed").repeat(passed) + &case("skipped") + &case("failure").repeat(failed)
    }

    #[test]
    fn a_case_that_failed_or_too_few_that_passed_fail_the_check() {
        assert!(Outcomes::of(&report(LEAST, 0)).check().is_ok());
        assert!(Outcomes::of(&report(LEAST, 1)).check().is_err());
        assert!(Outcomes::of(&report(LEAST - 1, 0)).check().is_err());
        assert!(Outcomes::of("").check().is_err());
        // The tool's report of a registry that it did not reach: all cases have failed, and no element says so.
        assert_eq!(Outcomes::of(&report(0, 865)), Outcomes { passed: 0, failed: 865 });
    }
}
