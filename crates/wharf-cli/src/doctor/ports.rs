//! Whether the ports of the settings are free, and whose they are if not.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::settings::Settings;

/// One address that a server of these settings would listen on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    /// The flag that names another one.
    pub(crate) flag: &'static str,
    pub(crate) state: State,
}

/// What became of a try to have the address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    /// Somebody listens there, named if the system tells.
    Taken(Option<Holder>),
    Refused(String),
}

/// The program that listens at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) name: String,
    pub(crate) process_id: u32,
}

/// Tries every address of the settings, for a moment each.
pub(crate) fn examine(settings: &Settings) -> Vec<Port> {
    let server = &settings.server;
    let echo = server.echo.iter().map(|listener| (listener.address, "--echo"));
    let chat = server.chat.0.map(|address| (address, "--chat"));
    let metrics = server.metrics.0.map(|address| (address, "--metrics"));
    let wanted = echo.chain(chat).chain(metrics).filter(|(address, _)| address.port() != 0);
    wanted.map(|(address, flag)| Port { address, flag, state: state(address) }).collect()
}

fn state(address: SocketAddr) -> State {
    match bind(address) {
        Ok(()) => State::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            State::Taken(holder(address.port()))
        }
        Err(error) => State::Refused(error.to_string()),
    }
}

/// Binds and lets go again, without listening: nobody can connect meanwhile.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // As a server does, so that connections of an earlier one that are still ending do not count. On
    // Windows the option means to take what another has.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))
}

/// Who listens on a port, as far as the system tells: other users' processes only to root.
pub(crate) fn holder(port: u16) -> Option<Holder> {
    let process = listeners::get_process_by_port(port, listeners::Protocol::TCP).ok()?;
    Some(Holder { name: process.name, process_id: process.pid })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_free_until_somebody_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let State::Taken(holder) = state(address) else { panic!("{:?}", state(address)) };
        if cfg!(target_os = "linux") {
            assert_eq!(holder.unwrap().process_id, std::process::id());
        }
        drop(listener);
        assert_eq!(state(address), State::Free);
        // An address of nobody's machine (RFC 5737).
        assert!(matches!(state("192.0.2.1:9".parse().unwrap()), State::Refused(_)));
    }

    #[test]
    fn all_that_is_listened_on_is_looked_at_and_a_port_that_is_chosen_later_is_not() {
        let mut settings = Settings::default();
        settings.server.echo = vec!["127.0.0.1:0".parse().unwrap()];
        settings.server.chat.0 = None;
        assert_eq!(examine(&settings), []);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        settings.server.metrics.0 = listener.local_addr().ok();
        let found = examine(&settings);
        assert!(matches!(&found[..], [Port { flag: "--metrics", state: State::Taken(_), .. }]));
    }
}
