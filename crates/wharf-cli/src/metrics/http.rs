//! As much of HTTP/1.1 as a scraper and a probe need: the head of a request, one response, the end.

use wharf::framing::{Decoded, Framing, FramingError, Need, Packet};

/// Frames are heads of requests; what is sent is sent as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head;

impl Framing for Head {
    fn decode(&self, unread: &[u8], seen: usize) -> Result<Decoded, FramingError> {
        // The end may have begun in what was seen.
        let from = seen.saturating_sub(END.len() - 1);
        match unread[from..].windows(END.len()).position(|bytes| bytes == END) {
            Some(at) => {
                let len = from + at + END.len();
                Ok(Decoded::Frame { len, body: 0..len, id: 0 })
            }
            None => Ok(Decoded::Incomplete { need: Need::More }),
        }
    }

    fn encoded_len(&self, body_len: usize) -> usize {
        body_len
    }

    fn encode(&self, packet: Packet<'_>, out: &mut [u8]) -> Result<usize, FramingError> {
        let len = packet.body.len();
        out.get_mut(..len).ok_or(FramingError::OutputTooSmall)?.copy_from_slice(packet.body);
        Ok(len)
    }
}

const END: &[u8] = b"\r\n\r\n";

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    Malformed,
    Method,
}

/// Whether it asks for the head alone, and the path without what is behind a question mark.
pub(super) fn request(head: &[u8]) -> Result<(bool, &str), HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(HeadError::Malformed),
    }
    let is_head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(HeadError::Method),
    };
    let target = request.path.ok_or(HeadError::Malformed)?;
    Ok((is_head, target.split('?').next().unwrap_or(target)))
}

/// Header lines of a request.
const HEADERS_MAX: usize = 64;

/// How a request went, and with it of what type the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    Metrics,
    BadRequest,
    NotFound,
    NotAllowed,
    Unavailable,
}

/// The whole response; without the body where only the head was asked for.
pub(super) fn response(status: Status, body: &str, is_head: bool) -> String {
    let (line, kind) = match status {
        Status::Ok => ("200 OK", TEXT),
        Status::Metrics => ("200 OK", OPEN_METRICS),
        Status::BadRequest => ("400 Bad Request", TEXT),
        Status::NotFound => ("404 Not Found", TEXT),
        Status::NotAllowed => ("405 Method Not Allowed\r\nAllow: GET, HEAD", TEXT),
        Status::Unavailable => ("503 Service Unavailable", TEXT),
    };
    let length = body.len();
    let body = if is_head { "" } else { body };
    format!(
        "HTTP/1.1 {line}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: \
         close\r\n\r\n{body}"
    )
}

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_found_however_it_is_cut() {
        let head = b"GET /metrics?a=b HTTP/1.1\r\nHost: a\r\n\r\n";
        let sent = [head.as_slice(), b"GET"].concat();
        for cut in 0..=sent.len() {
            let found = Head.decode(&sent[..cut], 0).unwrap();
            if cut < head.len() {
                assert_eq!(found, Decoded::Incomplete { need: Need::More });
                assert_eq!(Head.decode(&sent, cut), Head.decode(&sent, 0), "{cut} seen");
            } else {
                assert_eq!(found, Decoded::Frame { len: head.len(), body: 0..head.len(), id: 0 });
            }
        }
        assert_eq!(request(head), Ok((false, "/metrics")));
    }

    #[test]
    fn what_is_no_request_of_ours_is_told_apart() {
        for (head, expected) in [
            (&b"HEAD /healthz HTTP/1.0\r\n\r\n"[..], Ok((true, "/healthz"))),
            (b"POST / HTTP/1.1\r\n\r\n", Err(HeadError::Method)),
            (b"\x16\x03\x01\r\n\r\n", Err(HeadError::Malformed)),
            (b"GET\r\n\r\n", Err(HeadError::Malformed)),
            (b"GET / HTTP/9\r\n\r\n", Err(HeadError::Malformed)),
        ] {
            assert_eq!(request(head), expected, "{:?}", head.escape_ascii());
        }
        let many = ["GET / HTTP/1.1\r\n", &"a: b\r\n".repeat(HEADERS_MAX + 1), "\r\n"].concat();
        assert_eq!(request(many.as_bytes()), Err(HeadError::Malformed));
    }

    #[test]
    fn a_response_tells_its_length() {
        assert_eq!(
            response(Status::Ok, "ok\n", false),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: \
             3\r\nConnection: close\r\n\r\nok\n"
        );
        assert!(
            response(Status::Ok, "ok\n", true)
                .ends_with("Content-Length: 3\r\nConnection: close\r\n\r\n")
        );
    }
}
