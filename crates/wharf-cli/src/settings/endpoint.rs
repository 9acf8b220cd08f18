//! Settings that say where operators reach the server, or that they do not.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::address::to_listen;
use super::value::{Value, quoted};

/// Where the control channel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// In a folder of this user, by the first port that is served.
    Auto,
    Off,
    At(PathBuf),
}

impl Value for Control {
    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "" => Err("expected `auto`, `off` or a path".to_owned()),
            path if path.chars().any(char::is_control) => {
                Err("a path with control characters is not taken".to_owned())
            }
            path => Ok(Self::At(PathBuf::from(path))),
        }
    }

    fn toml(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Off => quoted("off"),
            Self::At(path) => quoted(&path.display().to_string()),
        }
    }

    fn placeholder() -> Option<&'static str> {
        Some("PATH|auto|off")
    }
}

/// Where metrics are served, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metrics(pub(crate) Option<SocketAddr>);

impl Value for Metrics {
    fn parse(text: &str, _unit: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        to_listen(text)
            .map(|address| Self(Some(address)))
            .map_err(|error| format!("neither `off` nor an address: {error}"))
    }

    fn toml(&self) -> String {
        quoted(&self.0.map_or_else(|| "off".to_owned(), |address| address.to_string()))
    }

    fn placeholder() -> Option<&'static str> {
        Some("ADDR|off")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_channel_is_a_path_or_a_word() {
        for (text, shown) in [
            ("auto", "\"auto\""),
            ("off", "\"off\""),
            ("/run/wharf.sock", "\"/run/wharf.sock\""),
            (r"\\.\pipe\wharf", r#""\\\\.\\pipe\\wharf""#),
            (r#"odd "name""#, r#""odd \"name\"""#),
        ] {
            let value = Control::parse(text, "").unwrap();
            assert_eq!(value.toml(), shown);
        }
        assert!(Control::parse("", "").is_err() && Control::parse("a\nb", "").is_err());
    }

    #[test]
    fn metrics_are_at_an_address_or_off() {
        for text in ["off", "127.0.0.1:9464", "[::1]:0"] {
            assert_eq!(Metrics::parse(text, "").unwrap().toml(), format!("\"{text}\""));
        }
        for text in ["", "on", "9464", "::1:9464"] {
            assert!(Metrics::parse(text, "").unwrap_err().contains("neither `off` nor"), "{text}");
        }
    }
}
