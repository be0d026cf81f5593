//! `/`: a text for whoever types the registry's address into a browser.

use axum::{
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};

use crate::{Registry, auth::Challenger};

/// `GET /`
pub(crate) async fn get(State(registry): State<Registry>, request: Request) -> Response {
    let external = registry.external_host().await;
    let challenger = Challenger::of(&request, &external);
    let (base, host) = (challenger.base(), challenger.host());
    let text = format!(
        "This is DTR {version}, a container registry. It is used with docker, podman and other clients:\n\
         \n    docker login {host}\n    docker pull {host}/NAMESPACE/NAME:TAG\n\
         \nAccounts and repositories are made with the command dtr or through {base}/api/v0 \
         (described at {base}/api/v0/openapi.json).\n\
         \nThe certificate authority that clients must trust is at {base}/ca. Fetch it on the registry's own machine, or compare it \
         with what is served there, before you trust it; docker reads it from /etc/docker/certs.d/{host}/ca.crt.\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text).into_response()
}
