//! Answers that the transport gives by itself, in the error form of the OCI distribution specification.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::Body;

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
