//! `--metrics ADDR`: `/metrics` for Prometheus and `/healthz` for whoever restarts and balances.
//!
//! A server of its own on one worker, so that it answers while the other one drains, and whoever asks
//! slowly costs no session anything: its limits are those of any session here. `http` reads requests
//! and writes responses, `page` makes the page of what was counted.

mod http;
mod page;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use wharf::{Context, Frame, Handle, Handler, Limits, Server, port};

use crate::drain::Drain;
use http::{Head, HeadError, Status};

/// A running server of metrics.
pub(crate) struct Metrics {
    handle: Handle,
}

impl Metrics {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.local_addrs()[0]
    }

    /// Ends it, at once.
    pub(crate) fn end(self) {
        self.handle.drain(Duration::ZERO);
        // This is none of its workers, so that nothing is left to go wrong.
        let _ = self.handle.join();
    }
}

/// Serves what `served` counts at this address.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) fn start(
    address: SocketAddr,
    engine: port::EngineChoice,
    served: &Handle,
    drain: &Arc<Drain>,
) -> Result<Metrics> {
    let responder = Responder { served: served.clone(), drain: Arc::clone(drain) };
    let port = port::Config { engine, receive_buffers: 64, ..port::Config::default() };
    let handle = Server::builder()
        .workers(1)
        .port(port)
        .max_sessions(CONNECTIONS_MAX)
        .limits(limits())
        .offload_threads(1)
        .listen(address, Head, move || responder.clone())
        .start()
        .context("metrics cannot be served: --metrics ADDR names another address")?;
    Ok(Metrics { handle })
}

fn limits() -> Limits {
    Limits {
        sessions_per_address: Some(CONNECTIONS_PER_ADDRESS_MAX),
        frame_bytes_max: HEAD_BYTES_MAX,
        first_frame_timeout: Some(REQUEST_TIMEOUT),
        close_flush_timeout: RESPONSE_TIMEOUT,
        linger_timeout: LINGER,
        ..Limits::default()
    }
}

/// Answers one request per connection.
#[derive(Clone)]
struct Responder {
    served: Handle,
    drain: Arc<Drain>,
}

impl Handler for Responder {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        let (is_head, path) = match http::request(frame.body()) {
            Ok(request) => request,
            Err(HeadError::Malformed) => {
                return respond(cx, false, Status::BadRequest, "not HTTP\n");
            }
            Err(HeadError::Method) => {
                return respond(cx, false, Status::NotAllowed, "GET and HEAD only\n");
            }
        };
        match path {
            "/metrics" => {
                let served = self.served.clone();
                let asked = cx.offload(
                    move || page::of(&served),
                    move |cx: &mut Context<'_, ()>, page| match page {
                        Ok(page) => respond(cx, is_head, Status::Metrics, &page),
                        Err(error) => respond(cx, is_head, Status::Unavailable, &error),
                    },
                );
                match asked {
                    Ok(()) => Ok(()),
                    Err(error) => respond(cx, is_head, Status::Unavailable, &format!("{error}\n")),
                }
            }
            "/healthz" if self.drain.has_begun() => {
                respond(cx, is_head, Status::Unavailable, "draining\n")
            }
            "/healthz" => respond(cx, is_head, Status::Ok, "ok\n"),
            _ => respond(cx, is_head, Status::NotFound, "there are /metrics and /healthz\n"),
        }
    }
}

/// Sends the response and closes: a scraper comes back in seconds, not at once.
fn respond(cx: &mut Context<'_, ()>, is_head: bool, status: Status, body: &str) -> wharf::Result {
    cx.send(http::response(status, body, is_head).as_bytes())?;
    cx.close();
    Ok(())
}

/// Scrapers and probes at one time; more are closed as they come.
const CONNECTIONS_MAX: usize = 64;

/// Those of one address that is not this machine's: one that opens and says nothing leaves room for the
/// others.
const CONNECTIONS_PER_ADDRESS_MAX: u32 = 16;
const _: () = assert!((CONNECTIONS_PER_ADDRESS_MAX as usize) < CONNECTIONS_MAX);

/// The head of a request, in bytes; a longer one closes the connection.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// How long the head of a request may take, however it trickles.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a scraper may take to read.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a scraper that has its answer may stay.
const LINGER: Duration = Duration::from_secs(1);
