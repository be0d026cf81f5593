//! `dtr events`: what happened, as an audit log.

use std::io::Write as _;

use anyhow::Context as _;

use super::connect;
use crate::{cli::EventsCommand, failure::Result};

/// `dtr events export`
pub async fn run(command: EventsCommand) -> Result<()> {
    let EventsCommand::Export { since, until, after, without_pulls, connect: args } = command;
    let path = path(
        &[("publishedAfter", since), ("publishedBefore", until), ("after", after)],
        without_pulls,
    );
    connect::with(&args, async |c| {
        let mut lines = c.api.download(&path, None::<&()>).await.context("cannot export events")?;
        let mut out = std::io::stdout();
        while let Some(block) = lines.next().await.context("the export is not whole")? {
            out.write_all(&block).context("cannot write to standard output")?;
        }
        out.flush().context("cannot write to standard output")
    })
    .await
}

/// The address of the wanted events.
fn path(bounds: &[(&str, Option<String>)], without_pulls: bool) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in bounds {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.append_pair("excludePull", if without_pulls { "true" } else { "false" });
    format!("/api/v0/events/export?{}", query.finish())
}
