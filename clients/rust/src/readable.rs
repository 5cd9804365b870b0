//! Details that cannot be read are taken away: tonic would panic over them, in the caller's task.

use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderName, Response};
use tonic::metadata::{MetadataMap, MetadataValue};

const DETAILS_KEY: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// An answer whose details, if there are any, are base64. Without them its error is not a broker's.
pub(crate) fn readable(mut response: Response<Body>) -> Response<Body> {
    check(response.headers_mut());
    response.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                check(trailers);
            }
            frame
        }))
    })
}

fn check(headers: &mut HeaderMap) {
    let Some(details) = headers.get(DETAILS_KEY) else { return };
    let alone = HeaderMap::from_iter([(DETAILS_KEY, details.clone())]);
    // Decoded as tonic will.
    let decoded =
        MetadataMap::from_headers(alone).get_bin(DETAILS_KEY.as_str()).map(MetadataValue::to_bytes);
    if !matches!(decoded, Some(Ok(_))) {
        headers.remove(DETAILS_KEY);
    }
}
