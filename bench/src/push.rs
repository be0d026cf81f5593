//! What clients do to a registry, in the requests that docker makes.

use anyhow::{Result, ensure};
use dtr_types::{Digest, media_types};

use crate::http::{Connection, Response};

const OCTETS: &str = "application/octet-stream";

/// Uploads a small blob: POST, then PUT with the body.
pub async fn blob(connection: &mut Connection, repository: &str, content: &[u8]) -> Result<Digest> {
    let digest = Digest::of(content);
    let started =
        connection.send("POST", &format!("/v2/{repository}/blobs/uploads/"), OCTETS, b"").await?;
    ensure!(started.status == 202, "POST answered {}: {}", started.status, text(&started));
    let location = with_digest(&started, &digest);
    let done = connection.send("PUT", &location, OCTETS, content).await?;
    ensure!(done.status == 201, "PUT answered {}: {}", done.status, text(&done));
    Ok(digest)
}

/// Uploads a large blob as docker does: POST, one PATCH without a length, PUT.
pub async fn large_blob(
    connection: &mut Connection,
    repository: &str,
    block: &[u8],
    times: usize,
    digest: &Digest,
) -> Result<()> {
    let started =
        connection.send("POST", &format!("/v2/{repository}/blobs/uploads/"), OCTETS, b"").await?;
    ensure!(started.status == 202, "POST answered {}: {}", started.status, text(&started));
    let location = started.header("location").unwrap_or_default().to_owned();
    let patched = connection.stream("PATCH", &location, block, times).await?;
    ensure!(patched.status == 202, "PATCH answered {}: {}", patched.status, text(&patched));
    let done = connection.send("PUT", &with_digest(&patched, digest), OCTETS, b"").await?;
    ensure!(done.status == 201, "PUT answered {}: {}", done.status, text(&done));
    Ok(())
}

/// Stores a manifest.
pub async fn manifest(
    connection: &mut Connection,
    repository: &str,
    reference: &str,
    body: &[u8],
) -> Result<()> {
    let target = format!("/v2/{repository}/manifests/{reference}");
    let done = connection.send("PUT", &target, media_types::DOCKER_MANIFEST, body).await?;
    ensure!(done.status == 201, "PUT manifest answered {}: {}", done.status, text(&done));
    Ok(())
}

/// A Docker manifest of one configuration and one layer; `mark` makes it differ from others.
pub fn image(config: (&Digest, usize), layer: (&Digest, usize), mark: &str) -> Vec<u8> {
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_types::DOCKER_MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": config.0,
            "size": config.1,
        },
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "digest": layer.0,
            "size": layer.1,
        }],
        "annotations": { "mark": mark },
    })
    .to_string()
    .into_bytes()
}

/// A whole small image: two blobs that nobody has yet, and their manifest.
pub async fn small_image(connection: &mut Connection, repository: &str, n: u64) -> Result<()> {
    let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"n\":{n}}}");
    let layer: Vec<u8> = (0..1024u64).map(|i| (i.wrapping_mul(n | 1) >> 3) as u8).collect();
    let layer = [&layer[..], &n.to_be_bytes()].concat();
    let config_digest = blob(connection, repository, config.as_bytes()).await?;
    let layer_digest = blob(connection, repository, &layer).await?;
    let body = image((&config_digest, config.len()), (&layer_digest, layer.len()), "");
    manifest(connection, repository, &format!("v{n}"), &body).await
}

fn with_digest(response: &Response, digest: &Digest) -> String {
    let location = response.header("location").unwrap_or_default();
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={digest}")
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).chars().take(300).collect()
}
