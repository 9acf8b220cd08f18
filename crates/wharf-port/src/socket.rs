//! Sockets that belong to no port yet, and the options that sockets are given.

use std::{fmt, io, net::SocketAddr, time::Duration};

use crate::sim::{SimListener, SimStream};

/// A connection that belongs to no port yet (P10). May cross threads; dropping it closes it.
#[derive(Debug)]
pub struct UnboundSocket(pub(crate) Stream);

#[derive(Debug)]
pub(crate) enum Stream {
    #[cfg(any(unix, windows))]
    Os(socket2::Socket),
    /// Boxed, as each completion has room for the largest of all.
    Sim(Box<SimStream>),
}

impl UnboundSocket {
    /// The other end's address.
    ///
    /// # Errors
    /// What the system says; a connection that was reset while it waited has no other end any more.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            #[cfg(any(unix, windows))]
            Stream::Os(socket) => inet(&socket.peer_addr()?),
            Stream::Sim(stream) => Ok(stream.peer_addr()),
        }
    }
}

#[cfg(any(unix, windows))]
impl From<std::net::TcpStream> for UnboundSocket {
    fn from(stream: std::net::TcpStream) -> Self {
        Self(Stream::Os(stream.into()))
    }
}

/// A listening socket that belongs to no port yet. May cross threads; dropping it closes it.
pub struct UnboundListener {
    pub(crate) socket: Listening,
    local: SocketAddr,
    /// What a socket made for a connection to come is given (`AcceptEx`).
    #[cfg(windows)]
    pub(crate) options: SocketOptions,
}

pub(crate) enum Listening {
    #[cfg(any(unix, windows))]
    Os(socket2::Socket),
    Sim(SimListener),
}

impl UnboundListener {
    pub(crate) fn simulated(listener: SimListener, local: SocketAddr) -> Self {
        Self {
            socket: Listening::Sim(listener),
            local,
            #[cfg(windows)]
            options: SocketOptions::default(),
        }
    }

    /// The address that it listens on; the port is never 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl fmt::Debug for UnboundListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnboundListener({})", self.local)
    }
}

/// Options of a connection's socket. Accepted sockets inherit them from their listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// `TCP_NODELAY` (tcp(7)). On: with one send in flight that gathers what waits, Nagle's
    /// algorithm only adds the peer's delayed acknowledgement to every answer.
    pub nodelay: bool,
    /// Probes on a silent connection; `None`: none. Finds peers that are gone without a word.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT` (tcp(7), Linux): how long sent data may stay unacknowledged before the
    /// connection fails; `None`: the system's retry count decides, often a quarter of an hour.
    pub user_timeout: Option<Duration>,
    /// `SO_RCVBUF` in bytes; `None`: the system sizes it itself.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF` in bytes; `None`: the system sizes it itself.
    pub send_buffer_bytes: Option<usize>,
    /// The address that an outgoing connection comes from; `None`: the system chooses.
    pub source: Option<SocketAddr>,
}

/// `SO_KEEPALIVE` and its times (tcp(7)), in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection fails.
    pub probes: u32,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Keepalive::default()),
            user_timeout: Some(Duration::from_secs(30)),
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
            source: None,
        }
    }
}

impl Default for Keepalive {
    /// 60 s, then every 10 s, 3 times: a peer that is gone is noticed after a minute and a half,
    /// and home routers, which forget silent connections after some minutes, keep this one.
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 3 }
    }
}

/// Options of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted (listen(2)); the system's own limit
    /// (`net.core.somaxconn` on Linux) caps it silently.
    pub backlog: u32,
    /// What accepted sockets inherit.
    pub socket: SocketOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 4096, socket: SocketOptions::default() }
    }
}

/// Listens on `address` with up to `count` sockets that share it, one for each port; a port number
/// of 0 is resolved once, for all of them. Where the system cannot spread connections over several
/// sockets (all but Linux), there is one.
///
/// An IPv6 address takes IPv6 connections only (`IPV6_V6ONLY`), so that `[::]` and `0.0.0.0` can be
/// listened on side by side.
///
/// # Errors
/// The address is in use, is not of this machine, or needs a privilege. `SO_REUSEPORT` alone would
/// let a second server of the same user share the address silently and take half of the
/// connections: a bind without it comes first, and fails.
#[cfg(any(unix, windows))]
pub fn listen(
    address: SocketAddr,
    options: &ListenOptions,
    count: usize,
) -> io::Result<Vec<UnboundListener>> {
    let share = cfg!(target_os = "linux") && count > 1;
    if share && address.port() != 0 {
        // Only a listening socket that is not ours can be in the way of this one.
        stream_socket(address)?.bind(&address.into())?;
    }
    let mut listeners = Vec::with_capacity(count);
    let mut resolved = address;
    for _ in 0..if share { count } else { count.min(1) } {
        let socket = stream_socket(address)?;
        #[cfg(target_os = "linux")]
        if share {
            socket.set_reuse_port(true)?;
        }
        options.socket.apply(&socket)?;
        socket.bind(&resolved.into())?;
        resolved = inet(&socket.local_addr()?)?;
        listeners.push((socket, resolved));
    }
    // All are bound before one listens: no connection can come to a part of them.
    let backlog = backlog(options.backlog);
    listeners
        .into_iter()
        .map(|(socket, local)| {
            socket.listen(backlog)?;
            Ok(UnboundListener {
                socket: Listening::Os(socket),
                local,
                #[cfg(windows)]
                options: options.socket.clone(),
            })
        })
        .collect()
}

#[cfg(unix)]
fn backlog(connections: u32) -> i32 {
    i32::try_from(connections).unwrap_or(i32::MAX)
}

/// Windows takes numbers above 200 for 200 unless it is asked for its maximum: `SOMAXCONN` of
/// Winsock 2, which is not windows-sys' constant of that name (5, Winsock 1's).
#[cfg(windows)]
fn backlog(connections: u32) -> i32 {
    const SOMAXCONN: i32 = 0x7fff_ffff;
    if connections > 200 { SOMAXCONN } else { connections as i32 }
}

/// A blocking, close-on-exec stream socket to bind.
#[cfg(any(unix, windows))]
fn stream_socket(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = connecting_socket(address)?;
    // On unix this lets a restarted server have its port while old connections are in TIME_WAIT; on
    // Windows it would let anyone have it.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // There, nobody else may have it even if they ask for that.
    #[cfg(windows)]
    crate::iocp::set_exclusive_address(&socket)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A blocking, close-on-exec stream socket to connect to `address`.
#[cfg(any(unix, windows))]
pub(crate) fn connecting_socket(address: SocketAddr) -> io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(address);
    socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))
}

#[cfg(any(unix, windows))]
impl SocketOptions {
    /// Sets these options on a socket that is to listen or to connect.
    pub(crate) fn apply(&self, socket: &socket2::Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        if let Some(keepalive) = self.keepalive {
            set_keepalive(socket, keepalive)?;
        }
        #[cfg(target_os = "linux")]
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(source) = self.source {
            socket.bind(&source.into())?;
        }
        Ok(())
    }
}

#[cfg(any(unix, windows))]
fn set_keepalive(socket: &socket2::Socket, keepalive: Keepalive) -> io::Result<()> {
    let times = socket2::TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.probes);
    let set = socket.set_tcp_keepalive(&times);
    // Only Windows 10 and later let the number of probes be chosen; it comes last, so that the
    // times are set by then.
    #[cfg(windows)]
    if let Err(error) = set {
        tracing::debug!(%error, "the system's own number of keepalive probes is used");
        return socket.set_keepalive(true);
    }
    set
}

#[cfg(any(unix, windows))]
pub(crate) fn inet(address: &socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::net::TcpStream;

    const ANY: &str = "127.0.0.1:0";

    #[test]
    fn a_port_number_of_zero_is_the_same_for_all_sockets() {
        let listeners = listen(ANY.parse().unwrap(), &ListenOptions::default(), 2).unwrap();
        let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]));
        assert_eq!(ports.len(), if cfg!(target_os = "linux") { 2 } else { 1 });
    }

    #[test]
    fn an_address_in_use_is_an_error() {
        let first = listen(ANY.parse().unwrap(), &ListenOptions::default(), 2).unwrap();
        let address = first[0].local_addr();
        for count in [1, 2] {
            let error = listen(address, &ListenOptions::default(), count).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{count} sockets");
        }
    }

    #[test]
    fn an_address_is_free_again_while_old_connections_wait() {
        let first = listen(ANY.parse().unwrap(), &ListenOptions::default(), 1).unwrap();
        let address = first[0].local_addr();
        let client = TcpStream::connect(address).unwrap();
        let Listening::Os(listening) = &first[0].socket else { unreachable!() };
        let (accepted, _) = listening.accept().unwrap();
        drop(accepted); // the server closes first: its side goes to TIME_WAIT
        drop(client);
        drop(first);
        for count in [1, 2] {
            listen(address, &ListenOptions::default(), count).unwrap();
        }
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let listener = listen(ANY.parse().unwrap(), &ListenOptions::default(), 1).unwrap();
        let _client = TcpStream::connect(listener[0].local_addr()).unwrap();
        let Listening::Os(listening) = &listener[0].socket else { unreachable!() };
        let (accepted, _) = listening.accept().unwrap();
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
            assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
            assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 3);
            assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
        }
    }

    #[test]
    fn ipv6_and_ipv4_are_listened_on_side_by_side() {
        let Ok(six) = listen("[::]:0".parse().unwrap(), &ListenOptions::default(), 1) else {
            assert!(
                !std::path::Path::new("/proc/net/if_inet6").exists(),
                "IPv6 is there but refused"
            );
            return;
        };
        let four = SocketAddr::from(([0, 0, 0, 0], six[0].local_addr().port()));
        listen(four, &ListenOptions::default(), 1).unwrap();
    }
}
