//! Addresses as people write them: numbers, `localhost`, and for servers elsewhere a host's name.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};

/// An address to listen on. `localhost` is 127.0.0.1; no other name is asked for, since a server that
/// is to be reached under a name listens on an address of its own machine.
pub(crate) fn to_listen(text: &str) -> Result<SocketAddr, String> {
    if let Some(address) = written(text) {
        return Ok(address);
    }
    Err(match host_and_port(text) {
        Some((host, port)) => format!(
            "`{text}` names a host: to listen, write an IP address of this machine, such as \
             `127.0.0.1:{port}`, or `0.0.0.0:{port}` for all of them; {host} is for those who connect"
        ),
        None => format!(
            "`{text}` is not an IP address and a port, such as `127.0.0.1:9000` or `[::1]:9000`"
        ),
    })
}

/// An address to connect to; names are looked up, and the first address of one is taken.
pub(crate) fn to_reach(text: &str) -> Result<SocketAddr, String> {
    if let Some(address) = written(text) {
        return Ok(address);
    }
    if host_and_port(text).is_none() {
        return Err(format!(
            "`{text}` is not a host and a port, such as `127.0.0.1:9000`, `[::1]:9000` or \
             `localhost:9000`"
        ));
    }
    let found = text.to_socket_addrs().map_err(|error| format!("`{text}`: {error}"))?;
    let mut found = found;
    found.next().ok_or_else(|| format!("`{text}`: the name has no address"))
}

/// What can be read without asking anybody. `localhost` is one address everywhere: looked up, it may
/// be ::1, where nobody listens.
fn written(text: &str) -> Option<SocketAddr> {
    match host_and_port(text) {
        Some((host, port)) if host.eq_ignore_ascii_case("localhost") => {
            Some((Ipv4Addr::LOCALHOST, port).into())
        }
        _ => text.parse().ok(),
    }
}

/// A host's name and a port; `None` for anything else.
fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = host.bytes().all(is_name_byte) && host.bytes().any(|b| b.is_ascii_alphabetic());
    Some((host, port.parse().ok()?)).filter(|_| is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_this_machine_in_both_directions() {
        for (text, expected) in [
            ("localhost:9000", "127.0.0.1:9000"),
            ("LocalHost:0", "127.0.0.1:0"),
            ("[::1]:9000", "[::1]:9000"),
            ("0.0.0.0:7", "0.0.0.0:7"),
        ] {
            let expected: SocketAddr = expected.parse().unwrap();
            assert_eq!(to_listen(text), Ok(expected));
            assert_eq!(to_reach(text), Ok(expected));
        }
    }

    #[test]
    fn whatever_else_is_written_is_told_apart() {
        let name = to_listen("game.example:9000").unwrap_err();
        assert!(name.contains("names a host") && name.contains("`0.0.0.0:9000`"), "{name}");
        for text in ["", "9000", "localhost", "::1:9000", "localhost:", "localhost:65536", "a b:1"]
        {
            assert!(
                to_listen(text).unwrap_err().contains("not an IP address and a port"),
                "{text}"
            );
            assert!(to_reach(text).unwrap_err().contains("not a host and a port"), "{text}");
        }
    }
}
