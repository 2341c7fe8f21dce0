//! Answers of the HTTPS interface: what is served, and refusals with their reason, in the form the asker
//! reads: JSON for programs of this product, plain text for EST clients.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

use crate::enrollment::protocol::{ErrorDetail, ErrorResponse};

/// What is sent back
pub(super) type Reply = Response<Full<Bytes>>;

/// The field of RFC 7030 that says what RFC 8951 says anyway
const TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");

/// In which form a refusal is told
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// `ErrorResponse`
    Json,
    /// A sentence (RFC 7030 section 4.2.3)
    Text,
}

/// A refusal as it is answered
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// Ask again after this time
    pub(super) retry_after: Option<Duration>,
    /// Whether it counts against the network it came from: a wrong secret does, a busy authority does not
    pub(super) counts: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, counts: true }
    }

    /// The authority has no time for it now
    pub(super) fn later(code: &'static str, message: impl Into<String>, after: Duration) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let message = message.into();
        Self { status, code, message, retry_after: Some(after), counts: false }
    }

    /// This host's fault: the reason is for its log, not for the stranger
    pub(super) fn internal(cause: &dyn std::error::Error) -> Self {
        tracing::error!(%cause, "the authority failed");
        let message = "the authority could not do it; its operator finds why in its log";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let message = message.to_owned();
        Self { status, code: "failed", message, retry_after: None, counts: false }
    }

    /// The answer that tells it
    pub(super) fn reply(&self, form: Form) -> Reply {
        let mut reply = match form {
            Form::Json => {
                let (code, message) = (self.code.to_owned(), self.message.clone());
                json(self.status, &ErrorResponse { error: ErrorDetail { code, message } })
            }
            Form::Text => {
                let text = format!("{}: {}\n", self.code, self.message);
                octets(self.status, "text/plain; charset=utf-8", text.into_bytes())
            }
        };
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: sooner than asked for would be refused again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED && form == Form::Text {
            let challenge = HeaderValue::from_static("Basic realm=\"estrealm\", charset=\"UTF-8\"");
            reply.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        reply
    }
}

/// The answer to a method the path does not know
pub(super) fn wrong_method(allowed: &Method, form: Form) -> Reply {
    let refusal = Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        format!("this path is asked with {allowed}"),
    );
    let mut reply = refusal.reply(form);
    let get = HeaderValue::from_static("GET, HEAD");
    let allowed = if *allowed == Method::GET { get } else { HeaderValue::from_static("POST") };
    reply.headers_mut().insert(ALLOW, allowed);
    reply
}

/// A body as it is
pub(super) fn octets(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A body that may be kept for a while
pub(super) fn cacheable(content_type: &'static str, cache: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = octets(StatusCode::OK, content_type, body);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    reply
}

/// An EST body, which is base64
pub(super) fn est(content_type: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = octets(StatusCode::OK, content_type, body);
    reply.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("base64"));
    reply
}

/// A JSON body
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    match serde_json::to_vec(body) {
        Ok(body) => octets(status, "application/json", body),
        Err(error) => {
            tracing::error!(%error, "an answer could not be encoded");
            octets(StatusCode::INTERNAL_SERVER_ERROR, "application/json", Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_come_back_and_how_to_prove_who_one_is() {
        let busy = Refusal::later("busy", "many are waiting", Duration::from_millis(1_200));
        let reply = busy.reply(Form::Json);
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers()[RETRY_AFTER], "2");
        assert!(!busy.counts);
        let stranger = Refusal::new(StatusCode::UNAUTHORIZED, "unauthenticated", "who are you?");
        let reply = stranger.reply(Form::Text);
        assert_eq!(
            reply.headers()[WWW_AUTHENTICATE],
            "Basic realm=\"estrealm\", charset=\"UTF-8\""
        );
        assert!(stranger.reply(Form::Json).headers().get(WWW_AUTHENTICATE).is_none());
        assert_eq!(wrong_method(&Method::POST, Form::Json).headers()[ALLOW], "POST");
    }
}
