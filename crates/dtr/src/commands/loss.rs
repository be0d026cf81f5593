//! What goes with a replica that is destroyed, said before it goes: how much it is, and what no backup has.

use dtr_client::PageStyle;
use dtr_recovery::Exit;
use dtr_replica::{DataDir, DestroyPlan, Known};
use serde_json::Value;

use super::connect;
use crate::{
    cli::{ConnectArgs, DestroyArgs, UcpArgs},
    failure::{Failure, Result},
    terminal::{self, field, size},
};

/// Says on standard error what `dtr destroy` is about to do.
pub async fn say(dir: &DataDir, plan: &DestroyPlan, args: &DestroyArgs) {
    let at = dir.root().display();
    if args.keep_old {
        terminal::say(&format!("the replica in {at} will be stopped, and the folder put aside"));
        return;
    }
    let loss = plan.loss().await;
    let mut lines = vec![format!(
        "everything in {at} will be deleted, {} in {} files",
        size(loss.bytes),
        loss.files
    )];
    if let Some(storage) = &plan.storage {
        lines.push(format!("and the image content in {}", storage.display()));
    }
    if let Some(kept) = &plan.kept {
        lines.push(format!("but the image content in {}, which stays", kept.display()));
    }
    let known = match loss.known {
        Some(known) => Ok((known.repositories, backup_of(&known))),
        None if dtr_replica::running(dir).is_some() => asked(dir).await,
        None => Err(Failure::ending(Exit::Failed, "it cannot be asked")),
    };
    match known {
        Ok((repositories, backup)) => {
            lines.push(format!("repositories  {repositories}"));
            lines.push(format!(
                "last backup   {}",
                backup.unwrap_or_else(|| { "never: what is deleted is nowhere else".to_owned() })
            ));
        }
        // A part of one, or one of several: there is nothing that it alone knows.
        Err(error) => tracing::debug!(%error, "what the replica has is not known"),
    }
    lines.push("(--keep-old puts the folder aside instead)".to_owned());
    lines.iter().for_each(|line| terminal::say(line));
}

fn backup_of(known: &Known) -> Option<String> {
    let backup = known.last_backup.as_ref()?;
    Some(described(&backup.finished_at.to_string(), backup.with_images))
}

fn described(at: &str, with_images: bool) -> String {
    match with_images {
        true => format!("{at}, with image content; what came later is nowhere else"),
        false => format!(
            "{at}, without image content, which must be in a copy of its storage; what came later is nowhere else"
        ),
    }
}

/// The same, of a replica that runs.
async fn asked(dir: &DataDir) -> Result<(u64, Option<String>)> {
    let ucp = UcpArgs {
        ucp_url: None,
        ucp_username: None,
        ucp_password: None,
        ucp_ca: None,
        ucp_insecure_tls: false,
    };
    let connect = ConnectArgs {
        ucp,
        ucp_token: None,
        existing_replica_id: None,
        data_dir: Some(dir.root().to_owned()),
        export: false,
    };
    connect::with(&connect, async |c| {
        let repositories: Vec<Value> =
            c.api.list("/api/v0/repositories", PageStyle::Dtr, "repositories", 1000).await?;
        let status: Value = c.api.get("/api/v0/meta/cluster_status").await?;
        let backup = &status["last_backup"];
        let backup = backup.is_object().then(|| {
            let with_images = backup["withImages"].as_bool().unwrap_or_default();
            described(&field(backup, "finishedAt"), with_images)
        });
        Ok((repositories.len() as u64, backup))
    })
    .await
}
