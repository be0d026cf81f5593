//! Answers that the transport gives by itself, in the error form of the OCI distribution specification.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::{Body, body::BodyFault};

/// An error as every face of the product writes it: `{"errors":[{"code","message","detail"}]}`.
pub fn error_response(
    status: StatusCode,
    code: &str,
    message: &str,
    detail: &serde_json::Value,
) -> Response<Body> {
    let text =
        json!({"errors": [{"code": code, "message": message, "detail": detail}]}).to_string();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 503 with `Retry-After`: over a limit.
pub(crate) fn overloaded(what: &'static str) -> Response<Body> {
    let message = format!("the server has too many {what} at this moment; try again in a second");
    let mut response = error_response(
        StatusCode::SERVICE_UNAVAILABLE,
        "UNAVAILABLE",
        &message,
        &json!({"limit": what}),
    );
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// What a body that was not taken to its end is answered with.
pub(crate) fn body_fault(fault: BodyFault) -> Response<Body> {
    let status = match fault {
        BodyFault::NoPlace(no) => return overloaded(no.what),
        BodyFault::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        BodyFault::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
    };
    let code = if status == StatusCode::REQUEST_TIMEOUT { "UNAVAILABLE" } else { "SIZE_INVALID" };
    error_response(status, code, &fault.to_string(), &json!({}))
}

/// 403 to what a page of another site has a browser ask for.
pub(crate) fn foreign() -> Response<Body> {
    let message = "a page of another site asks for this (Sec-Fetch-Site or Origin says so), and only pages of this registry may \
                   change something; behind a proxy, --dtr-external-url names this registry's address";
    error_response(StatusCode::FORBIDDEN, "DENIED", message, &json!({}))
}

/// 503 of `/_ping`: there has been no place for new work for some time.
pub(crate) fn full(what: &'static str) -> Response<Body> {
    let why = format!("the server has had too many {what} for some seconds");
    let mut response =
        Response::new(Body::from(json!({"Error": why, "Healthy": false}).to_string()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 400 to a request with more than one `Host`.
pub(crate) fn two_hosts() -> Response<Body> {
    let message = "the request has more than one Host header";
    error_response(StatusCode::BAD_REQUEST, "UNSUPPORTED", message, &json!({}))
}

/// 500 after a handler's panic. The reason is in the log only.
pub(crate) fn internal_error(request_id: &str) -> Response<Body> {
    let message =
        format!("an error inside the server; its log has more under request id {request_id}");
    error_response(
        StatusCode::INTERNAL_SERVER_ERROR,
        "UNKNOWN",
        &message,
        &json!({"request_id": request_id}),
    )
}
