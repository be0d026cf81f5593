//! `dtr backup salvage`: what is whole of a damaged archive, as a new one.

use std::{fs::File, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use dtr_archive::ArchiveError;
use dtr_recovery::{Exit, RecoveryError, SalvageReport};
use dtr_types::{Clock as _, SystemClock, SystemRandom};

use super::{encryption, sink::Sink, take::SinkWriter};
use crate::{
    cli::SalvageArgs,
    commands::report::ReportFile,
    failure::{Failure, Result, Said},
    terminal::{self, Progress},
};

/// `dtr backup salvage`
pub async fn run(args: SalvageArgs) -> Result<()> {
    let file = ReportFile::open(args.report.as_deref())?;
    let report = match salvaged(&args).await {
        Ok(report) => report,
        Err(error) => {
            file.failed(&error);
            return Err(error);
        }
    };
    let exit = report.exit();
    file.done(exit, &report);
    terminal::print(report.to_string().trim_end())?;
    match exit {
        Exit::Done => Ok(()),
        exit => Err(anyhow::Error::new(Said(exit))),
    }
}

async fn salvaged(args: &SalvageArgs) -> Result<SalvageReport> {
    let cannot = || format!("cannot salvage {}", args.file.display());
    let input = File::open(&args.file).with_context(cannot)?;
    let found = input.metadata().with_context(cannot)?;
    if !found.is_file() {
        return Err(Failure::usage(format!(
            "{}: a plain file is needed, since it is read more than once; write the archive into one first",
            args.file.display()
        )));
    }
    let same = |path: &PathBuf| std::fs::canonicalize(path).ok();
    if same(&args.output).is_some_and(|output| Some(output) == same(&args.file)) {
        return Err(Failure::usage("--output is the damaged archive itself: name another file"));
    }
    let encryption = encryption(&args.encryption)?;
    let sink = Sink::open(Some(&args.output), &encryption)?;
    let out = SinkWriter { sink, progress: Progress::new("salvaging") };
    let now = SystemClock.now();
    let version = env!("CARGO_PKG_VERSION");
    let done =
        dtr_recovery::salvage(Arc::new(input), found.len(), out, version, &SystemRandom, now).await;
    let (out, report) = match done {
        Ok(done) => done,
        Err(error @ RecoveryError::Archive(ArchiveError::NeedsIdentity)) => {
            let what = "it is encrypted: decrypt it first, as far as that goes (age -d -i KEYFILE FILE > clear.tar), and \
                        salvage what came of that";
            return Err(anyhow::Error::new(error).context(what).context(cannot()));
        }
        Err(error) => return Err(anyhow::Error::new(error).context(cannot())),
    };
    tokio::task::spawn_blocking(move || out.sink.finish()).await??;
    Ok(report)
}
