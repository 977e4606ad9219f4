//! What is said about a failed call, kept to a size that its client can receive.
//!
//! Status and details travel in HTTP headers. A client that is sent more of them than it takes has to end the whole
//! connection, with all other calls on it; and much of what a message repeats was sent by somebody.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::service::Routes;
use tower::util::MapResponseLayer;

const MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";
/// Longest message, as it is sent: clients take 16 KiB of headers if they are not told to take more.
const MAX_MESSAGE: usize = 8 << 10;
/// Largest details: half of what clients of this API take. There is a whole Dockerfile in them.
const MAX_DETAILS: usize = 8 << 20;
/// Ends a message of which something was left out.
const ELLIPSIS: &str = "...";

/// The same services, whose errors are of a bounded size.
pub(crate) fn bounded(routes: Routes) -> Routes {
    let layer = MapResponseLayer::new(bounded_response);
    Routes::from(routes.into_axum_router().layer(layer))
}

fn bounded_response<B>(response: Response<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut head, body) = response.into_parts();
    shorten(&mut head.headers);
    let body = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            shorten(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    });
    Response::from_parts(head, Body::new(body))
}

pub(crate) fn shorten(headers: &mut HeaderMap) {
    if headers.get(DETAILS).is_some_and(|details| details.len() > MAX_DETAILS) {
        headers.remove(DETAILS);
    }
    if let Some(message) = headers.get_mut(MESSAGE)
        && message.len() > MAX_MESSAGE
    {
        let start = &message.as_bytes()[..MAX_MESSAGE - ELLIPSIS.len()];
        // Not within an escaped byte.
        let cut = (1..=2).find(|back| start[start.len() - back] == b'%').unwrap_or(0);
        let short = [&start[..start.len() - cut], ELLIPSIS.as_bytes()].concat();
        *message = HeaderValue::from_bytes(&short).unwrap_or(HeaderValue::from_static(ELLIPSIS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_and_details_beyond_measure_left_out() {
        for (message, expected) in [
            ("short".to_owned(), "short".to_owned()),
            ("x".repeat(MAX_MESSAGE), "x".repeat(MAX_MESSAGE)),
            ("x".repeat(MAX_MESSAGE + 1), "x".repeat(MAX_MESSAGE - 3) + "..."),
            ("x%0A".repeat(MAX_MESSAGE), "x%0A".repeat(MAX_MESSAGE / 4 - 1) + "x..."),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(MESSAGE, message.parse().unwrap());
            headers.insert(DETAILS, "d".repeat(MAX_DETAILS).parse().unwrap());
            shorten(&mut headers);
            assert_eq!(headers[MESSAGE], expected);
            assert_eq!(headers[DETAILS].len(), MAX_DETAILS);
        }
        let mut headers = HeaderMap::new();
        headers.insert(DETAILS, "d".repeat(MAX_DETAILS + 1).parse().unwrap());
        shorten(&mut headers);
        assert!(headers.is_empty());
    }

    #[tokio::test]
    async fn trailers_are_cut_and_data_is_left() {
        let mut trailers = HeaderMap::new();
        trailers.insert(MESSAGE, "m".repeat(1 << 20).parse().unwrap());
        let data = Bytes::from(vec![7; 1 << 20]);
        let body = http_body_util::Full::new(data.clone()).with_trailers(std::future::ready(Some(Ok(trailers))));
        let answer = bounded_response(Response::new(body))
            .into_body()
            .collect()
            .await
            .unwrap();
        assert_eq!(answer.trailers().unwrap()[MESSAGE].len(), MAX_MESSAGE);
        assert_eq!(answer.to_bytes(), data);
    }
}
