//! The product itself, with TLS and access control, beside ours without: what these cost.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    compare::{CONNECTIONS, Plan, say, seed, small_images},
    process::{Endpoint, Server},
    servers,
    table::{Row, Target},
    wrk,
};

/// Where images are pushed to in the product.
pub const REPOSITORY: &str = "admin/bench";

/// Measures it, if the program is built; the first figure of each row is that of `open`.
pub async fn measure(plan: &Plan, dir: &Path, open: &Server, rows: &mut Vec<Row>) -> Result<()> {
    let Some(server) = servers::protected(dir, 0)? else {
        say("dtr is not built beside bench: TLS and access control are left out");
        return Ok(());
    };
    let authorization = token(&server).await?;
    let target = seed(&server, Some(&authorization), REPOSITORY).await?;
    let plain = seed(open, None, crate::compare::REPOSITORY).await?;
    let (mut gets, mut pushes) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds.min(3) {
        // Tokens live for some minutes only.
        let authorization = token(&server).await?;
        let without = wrk::get(open, &plain, None, 16, plan.seconds).await?;
        let with = wrk::get(&server, &target, Some(&authorization), 16, plan.seconds).await?;
        gets.push((without.rate, with.rate));
        let from = 100_000_000 + 1_000_000 * u64::from(round);
        let app = crate::compare::REPOSITORY;
        let without = small_images(open, None, app, from, plan.time(), CONNECTIONS).await?;
        let authorized = Some(authorization.as_str());
        let with =
            small_images(&server, authorized, REPOSITORY, from, plan.time(), CONNECTIONS).await?;
        pushes.push((without.rate(), with.rate()));
        say(&format!("TLS and access control {round}: {:.0} a second", with.rate()));
    }
    let what = "ours plain, then with TLS and auth: GET/s";
    rows.push(Row::pairs(what, &gets, Target::None));
    rows.push(Row::pairs("  pushes/s", &pushes, Target::None));
    let memory = server.memory_mib("VmRSS")?;
    rows.push(Row::alone("  memory with TLS and auth, MiB", memory, Target::None));
    server.stop()
}

/// A bearer token, as docker asks for one.
pub async fn token(server: &Endpoint) -> Result<String> {
    let (name, password) = servers::ADMIN;
    let basic = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
    let mut connection = server.connect(Some(&basic)).await?;
    let service = &server.hosts[0];
    let target = format!("/auth/token?service={service}&scope=repository:{REPOSITORY}:pull,push");
    let response = connection.send("GET", &target, "", b"").await?;
    let text = String::from_utf8_lossy(&response.body);
    ensure!(response.status == 200, "the token service answered {}: {text}", response.status);
    let answer: serde_json::Value = serde_json::from_slice(&response.body)?;
    let token = answer["token"].as_str().context("no token in the answer")?;
    Ok(format!("Bearer {token}"))
}
