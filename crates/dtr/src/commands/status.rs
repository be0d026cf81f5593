//! `dtr status`: how a replica and its cluster are, for people, programs and monitoring.

use anyhow::Context as _;
use dtr_recovery::Exit;
use serde_json::{Value, json};

use super::connect;
use crate::{
    cli::{Output, StatusArgs},
    failure::{Result, Said},
    terminal::{self, Table, field, harmless, size},
};

/// The widest text of a replica's health, in characters.
const HEALTH_MAX: usize = 60;

/// `dtr status`: exit code 1 when something is not as it should be.
pub async fn run(args: StatusArgs) -> Result<()> {
    connect::with(&args.connect, async |c| {
        let status: Value =
            c.api.get("/api/v0/meta/cluster_status").await.context("cannot ask for the status")?;
        let alerts: Vec<Value> = match c.api.get("/api/v0/meta/alerts").await {
            Ok(alerts) => alerts,
            // Alerts are in the store; why that does not answer is in the status.
            Err(_) if status["store"]["problem"].is_string() => Vec::new(),
            Err(error) => {
                return Err(anyhow::Error::new(error).context("cannot ask for the alerts"));
            }
        };
        match args.output {
            Output::Json => {
                let mut all = status.clone();
                all["alerts"] = json!(alerts);
                terminal::print_json(&all)?;
            }
            Output::Text => {
                overview(&status)?;
                replicas(&status)?;
                warn(&alerts)?;
            }
        }
        if healthy(&status) { Ok(()) } else { Err(anyhow::Error::new(Said(Exit::Failed))) }
    })
    .await
}

fn healthy(status: &Value) -> bool {
    let fine = |value: &Value| value.as_str() == Some("OK");
    fine(&status["identity"])
        && fine(&status["blob_storage"]["health"])
        && ["trouble", "lack", "own_member"].iter().all(|what| status["store"][what].is_null())
        && status["clock"]["problem"].is_null()
        && damaged(status) == 0
        && status["replica_health"].as_object().is_some_and(|r| r.values().all(fine))
}

/// Blobs that are lost or damaged in the storage.
fn damaged(status: &Value) -> u64 {
    status.pointer("/blob_storage/damaged_blobs").and_then(Value::as_u64).unwrap_or_default()
}

fn overview(status: &Value) -> Result<()> {
    let bytes = |path: &str| status.pointer(path).and_then(Value::as_u64).map(size);
    let mut lines = vec![
        ("cluster", field(status, "cluster_id")),
        ("version", field(status, "version")),
        ("identity service", field(status, "identity")),
        (
            "store",
            match status.pointer("/store/problem").and_then(Value::as_str) {
                Some(problem) => problem.to_owned(),
                None => format!(
                    "{}, revision {}{}",
                    field(status, "store/engine"),
                    field(status, "store/revision"),
                    bytes("/store/size_bytes").map(|b| format!(", {b}")).unwrap_or_default()
                ),
            },
        ),
        (
            "blob storage",
            match (bytes("/blob_storage/free_bytes"), bytes("/blob_storage/total_bytes")) {
                (Some(free), Some(total)) => {
                    format!("{}, {free} of {total} free", field(status, "blob_storage/health"))
                }
                _ => field(status, "blob_storage/health"),
            },
        ),
    ];
    if let count @ 1.. = damaged(status) {
        lines.push(("damaged content", format!("{count} blobs, see the alerts")));
    }
    for hold in status["store"]["holds"].as_array().into_iter().flatten() {
        let what = format!("{} since {}", field(hold, "purpose"), field(hold, "taken_at"));
        lines.push(("held for", what));
    }
    if let Some(problem) = status.pointer("/clock/problem").and_then(Value::as_str) {
        lines.push(("clock", problem.to_owned()));
    }
    let backup = &status["last_backup"];
    lines.push((
        "last backup",
        if backup.is_object() {
            let (at, revision) = (field(backup, "finishedAt"), field(backup, "revision"));
            format!("{at} at revision {revision}")
        } else {
            "none that is known to have arrived".to_owned()
        },
    ));
    let sent = &status["last_backup_sent"];
    if sent.is_object() && sent["confirmedAt"].is_null() {
        lines.push(("not confirmed", format!("a backup sent at {}", field(sent, "finishedAt"))));
    }
    let keys = &status["archive_keys"];
    if let Some(key) = keys["current"].as_str() {
        let former = keys["former"].as_array().map_or(0, Vec::len);
        let former = if former > 0 { format!(" ({former} former)") } else { String::new() };
        lines.push(("backups' key", format!("{key}{former}")));
    }
    let lines = lines.iter().map(|(name, text)| format!("{name:<17} {}\n", harmless(text)));
    terminal::print(&lines.collect::<String>())
}

fn replicas(status: &Value) -> Result<()> {
    let mut table = Table::new(&["REPLICA", "HEALTH", "VERSION", "LAST REPORT", "ADDRESS"]);
    for (id, health) in status["replica_health"].as_object().into_iter().flatten() {
        let of = |name: &str| field(&status[name], id);
        // The alerts below have the rest of it.
        let health = cut(health.as_str().unwrap_or_default());
        table.row([
            id.clone(),
            health,
            of("replica_version"),
            of("replica_timestamp"),
            of("replica_address"),
        ]);
    }
    table.print()
}

/// What fits into a column.
fn cut(text: &str) -> String {
    match text.char_indices().nth(HEALTH_MAX) {
        Some((at, _)) => format!("{} ...", &text[..at]),
        None => text.to_owned(),
    }
}

fn warn(alerts: &[Value]) -> Result<()> {
    for alert in alerts {
        let line = format!("{}: {}", field(alert, "class"), field(alert, "message"));
        terminal::print(&harmless(&line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_that_of_everything() {
        let mut status = json!({
            "identity": "OK", "blob_storage": {"health": "OK"}, "replica_health": {"a": "OK"},
        });
        assert!(healthy(&status));
        status["blob_storage"]["damaged_blobs"] = json!(1);
        assert!(!healthy(&status));
        status["blob_storage"]["damaged_blobs"] = json!(0);
        assert!(healthy(&status));
        for (name, what) in [("clock", "problem"), ("store", "lack"), ("store", "own_member")] {
            let mut ill = status.clone();
            ill[name][what] = json!("something");
            assert!(!healthy(&ill), "{name}");
        }
        status["replica_health"]["b"] = json!("has not reported since yesterday");
        assert!(!healthy(&status));
        assert_eq!(cut(&"x".repeat(500)).len(), HEALTH_MAX + 4);
    }
}
