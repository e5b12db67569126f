//! What went wrong, as JSON: `{"error": "…"}` names the thing and the way out.

use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    error: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: impl ToString) -> ApiError {
        ApiError { status, error: error.to_string() }
    }

    pub(super) fn bad(error: impl ToString) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, error)
    }

    /// The body could not be read, or was too large.
    pub(super) fn body(rejection: &BytesRejection, most: u64) -> ApiError {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let error = format!("the body is larger than {most} bytes: send less, or raise `[http] max_body_bytes`");
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error);
        }
        ApiError::bad(format!("the body cannot be read: {rejection}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        json(self.status, &Body { error: self.error })
    }
}

/// `value` as the body of an answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("answers are plain values");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
