//! A trivial handler behind the whole transport, to measure what the transport costs: plain on the first port given,
//! TLS on the second. `/m` answers like a manifest of 1 KiB, `/b` streams 512 MiB, `PUT` swallows what comes.

use std::{convert::Infallible, error::Error, net::SocketAddr};

use bytes::Bytes;
use dtr_transport::{
    Body, Forwarded, LogFormat, Metrics, Server, init_logging, pki, shutdown_on_signals,
    tls::ServerTls,
};
use dtr_types::{Clock as _, SystemClock, SystemRandom};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;

const PIECE: usize = 256 * 1024;
const PIECES: usize = 2048;

async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    if request.method() == Method::PUT {
        let mut body = request.into_body();
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        return Ok(Response::new(Body::from(format!("{bytes}\n"))));
    }
    let body = match request.uri().path() {
        "/b" => {
            let pieces = (0..PIECES).map(|_| Ok::<_, Infallible>(Bytes::from_static(&ZEROS)));
            Body::from_stream(futures_util::stream::iter(pieces))
        }
        _ => Body::from(Bytes::from_static(&ZEROS[..1024])),
    };
    Ok(Response::new(body))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    init_logging(LogFormat::Text, "info")?;
    let mut ports = std::env::args().skip(1);
    let mut port = |usual: u16| ports.next().map_or(Ok(usual), |text| text.parse());
    let (plain, https) = (port(8080)?, port(8443)?);
    let now = SystemClock.now();
    let authority = pki::Authority::make("Example CA", now)?;
    let certificate =
        authority.issue_server(&pki::SubjectNames::local(), now, pki::SERVER_VALIDITY)?;
    let server = Server::new(tower::service_fn(answer), Metrics::new(), &SystemRandom)
        .plain(SocketAddr::from(([127, 0, 0, 1], plain)), Forwarded::Ignore)
        .https(SocketAddr::from(([127, 0, 0, 1], https)), ServerTls::new(&certificate)?)
        .bind()
        .await?;
    server.run(shutdown_on_signals()?).await;
    Ok(())
}
