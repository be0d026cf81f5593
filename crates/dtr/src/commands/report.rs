//! What a command is worth, as a file for programs: tried before anything is done, and written however it ends.

use std::{
    fs::{File, OpenOptions},
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use dtr_recovery::Exit;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    failure::{self, Failure, Result},
    terminal,
};

/// A file for a report, open.
pub struct ReportFile(Option<(File, PathBuf)>);

impl ReportFile {
    /// Opens it, if one was named. What is in it stays until there is something else to say.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path);
        match file {
            Ok(file) => Ok(Self(Some((file, path.to_owned())))),
            Err(error) => Err(Failure::usage(format!(
                "--report {}: {error}; nothing was done",
                path.display()
            ))),
        }
    }

    /// Writes what came of it.
    fn write(self, told: &Value) -> Result<()> {
        let Some((mut file, path)) = self.0 else { return Ok(()) };
        let mut text = serde_json::to_vec_pretty(told)?;
        text.push(b'\n');
        // A device or a pipe has no length to be set.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        file.write_all(&text).with_context(|| format!("cannot write {}", path.display()))?;
        let _ = file.sync_all();
        Ok(())
    }

    /// Writes a report. What it speaks of is done, so a file that cannot be written is a warning.
    pub fn done(self, exit: Exit, report: &impl Serialize) {
        if let Err(error) = told(exit, report).and_then(|told| self.write(&told)) {
            terminal::say(&format!("warning: done, but its report was not written: {error:#}"));
        }
    }

    /// Writes what kept it from being done.
    pub fn failed(self, error: &anyhow::Error) {
        if let Err(error) = self.write(&refused(error)) {
            terminal::say(&format!("warning: the report was not written: {error:#}"));
        }
    }
}

/// A report with how the command ends: `good` and `exit` before everything else.
pub fn told(exit: Exit, report: &impl Serialize) -> Result<Value> {
    let mut all = json!({"good": exit == Exit::Done, "exit": exit.code()});
    if let (Value::Object(all), Value::Object(report)) = (&mut all, serde_json::to_value(report)?) {
        all.extend(report);
    }
    Ok(all)
}

/// Why there is no report.
pub fn refused(error: &anyhow::Error) -> Value {
    let message = failure::message(error).unwrap_or_default();
    json!({"good": false, "exit": failure::exit_code(error), "error": message})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_however_it_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.json");
        std::fs::write(&path, "what was there before, and is longer than what comes ".repeat(9))
            .expect("written");
        let read = || -> Value {
            serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON")
        };
        let error = Failure::ending(Exit::Refused, "it is not ours").context("cannot do it");
        ReportFile::open(Some(&path)).expect("opened").failed(&error);
        assert_eq!(
            read(),
            json!({"good": false, "exit": 4, "error": "cannot do it: it is not ours"})
        );
        let report = json!({"blobs": 3});
        ReportFile::open(Some(&path)).expect("opened").done(Exit::Incomplete, &report);
        assert_eq!(read(), json!({"good": false, "exit": 5, "blobs": 3}));
        let nowhere = ReportFile::open(Some(&folder.path().join("no/r.json")));
        assert_eq!(failure::exit_code(&nowhere.err().expect("refused")), 2);
    }
}
