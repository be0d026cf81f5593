//! `dtr gc`: the collector, by hand.

use anyhow::Context as _;
use dtr_client::ClientError;
use dtr_recovery::Exit;
use serde_json::{Value, json};

use super::connect;
use crate::{
    cli::{GcArgs, Output},
    failure::{Failure, Result},
    terminal::{self, size, waiting},
};

/// `dtr gc --dry-run|--run|--relink`
pub async fn run(args: GcArgs) -> Result<()> {
    if args.relink {
        return relink(&args).await;
    }
    let path = format!("/api/v0/gc?dryRun={}&clockIsRight={}", args.dry_run, args.clock_is_right);
    connect::with(&args.connect, async |c| {
        let report: Result<Value, ClientError> =
            waiting("collecting", c.api.post(&path, &json!({}))).await;
        let report = match report {
            // Nothing failed, and nothing is to be done: a schedule tells it from what did.
            Err(error) if error.status().is_some_and(|status| status.as_u16() == 409) => {
                return Err(Failure::ending(
                    Exit::Refused,
                    format!("nothing was collected here: {error}"),
                ));
            }
            other => other.context("cannot collect what nothing refers to")?,
        };
        match args.output {
            Output::Json => terminal::print_json(&report),
            Output::Text => terminal::print(&told(&report, args.dry_run)),
        }
    })
    .await
}

async fn relink(args: &GcArgs) -> Result<()> {
    connect::with(&args.connect, async |c| {
        let nothing = json!({});
        let asked = c.api.post("/api/v0/gc?relink=true", &nothing);
        let report: Value = waiting("looking for content that came back", asked)
            .await
            .context("cannot look for content that came back")?;
        if args.output == Output::Json {
            return terminal::print_json(&report);
        }
        let count = |name: &str| report[name].as_u64().unwrap_or_default();
        let mut text = format!(
            "of {} blobs that images need, {} came back and are read again; {} are damaged, {} missing\n",
            count("needed"),
            count("relinked"),
            count("damaged"),
            count("missing")
        );
        for digest in report["sample"].as_array().into_iter().flatten() {
            text.push_str(&format!("  {}\n", digest.as_str().unwrap_or_default()));
        }
        terminal::print(&text)
    })
    .await
}

fn told(report: &Value, dry_run: bool) -> String {
    let count = |name: &str| report[name].as_u64().unwrap_or_default();
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut text = format!("{verb} {} blobs ({})\n", count("removed"), size(count("freedBytes")));
    for (name, why) in [
        ("needed", "are needed by manifests after all"),
        ("young", "are younger than the grace period, in time that the registry ran"),
        ("held", "are held: a backup is being taken, or was broken off less than 15 minutes ago"),
        ("resumed", "removals of an interrupted run were finished"),
    ] {
        if count(name) > 0 {
            text.push_str(&format!("{} {why}\n", count(name)));
        }
    }
    for digest in report["sample"].as_array().into_iter().flatten() {
        text.push_str(&format!("  {}\n", digest.as_str().unwrap_or_default()));
    }
    text
}
