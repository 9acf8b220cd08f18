//! Placeholder.
use std::net::SocketAddr;
#[derive(Debug)]
pub(crate) struct SimStream;
impl SimStream {
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 0))
    }
}
pub(crate) struct SimListener;
