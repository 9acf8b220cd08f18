//! Settings of the chat that have a shape of their own: where it listens, where its users are.

use std::fmt;
use std::net::SocketAddr;

use wharf_chat::Location;

use super::address::to_listen;
use super::value::{Value, quoted};

/// Where the chat listens, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChatAddress(pub(crate) Option<SocketAddr>);

impl Value for ChatAddress {
    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            address => to_listen(address)
                .map(|address| Self(Some(address)))
                .map_err(|error| format!("neither `off` nor an address: {error}")),
        }
    }

    fn toml(&self) -> String {
        quoted(&self.0.map_or_else(|| "off".to_owned(), |address| address.to_string()))
    }
}

/// Where the chat's users are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreLocation(pub(crate) Location);

impl Value for StoreLocation {
    const HAS_SECRETS: bool = true;

    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }

    fn toml(&self) -> String {
        quoted(&self.0.to_string())
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_off() {
        for text in ["127.0.0.1:0", "[::1]:11021", "off"] {
            let value = ChatAddress::parse(text, "").unwrap();
            assert_eq!(value.toml(), quoted(text));
        }
        assert!(ChatAddress::parse("localhost", "").unwrap_err().contains("neither `off` nor"));
    }

    #[test]
    fn a_store_is_a_kind_and_a_place() {
        let value = StoreLocation::parse("redis:127.0.0.1:6380", "").unwrap();
        assert_eq!(value.to_string(), "redis:redis://127.0.0.1:6380");
        assert!(StoreLocation::parse("sqlite:x", "").unwrap_err().contains("embedded:PATH"));
    }
}
