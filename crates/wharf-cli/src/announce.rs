//! What a server says of itself once it serves: the banner for people and the `ready` line for
//! programs. Pure functions of what is running.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::settings::{EchoListener, Framing, Settings, grouped};

/// What runs, as far as the outside needs to know it.
pub(crate) struct Serving {
    /// The engine as programs are told it: `uring`, `poll`, `iocp`.
    pub(crate) engine: String,
    /// The engine as people are told it: `io_uring (kernel 6.18, probe ok, receive cap on)`.
    pub(crate) engine_detail: String,
    /// The echo listeners in the order of the settings, with the ports that they really have.
    pub(crate) echo: Vec<EchoListener>,
    pub(crate) chat: Option<ServingChat>,
    pub(crate) workers: usize,
    /// The most sessions at a time: the setting, or what descriptors allow.
    pub(crate) max_sessions: usize,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
}

/// A chat that is served.
pub(crate) struct ServingChat {
    /// With the port that it really has.
    pub(crate) address: SocketAddr,
    /// Whether anybody could log in; also where that is not known.
    pub(crate) has_users: bool,
}

/// The one line on standard output: `ready` and `key=value` pairs separated by single spaces.
pub(crate) fn ready_line(serving: &Serving, process_id: u32) -> String {
    let echo: Vec<String> =
        serving.echo.iter().map(|listener| listener.address.to_string()).collect();
    let (engine, echo, workers) = (&serving.engine, echo.join(","), serving.workers);
    let chat =
        serving.chat.as_ref().map_or_else(String::new, |chat| format!(" chat={}", chat.address));
    let metrics = serving.metrics.map(|address| format!(" metrics={address}")).unwrap_or_default();
    format!("ready engine={engine} echo={echo}{chat}{metrics} workers={workers} pid={process_id}")
}

/// What a person sees when the server starts. `descriptors` is how many sockets and files this
/// process may open, where the system limits them.
pub(crate) fn banner(serving: &Serving, settings: &Settings, descriptors: Option<u64>) -> String {
    let workers = serving.workers;
    let plural = if workers == 1 { "" } else { "s" };
    let mut text = format!(
        "wharf {}   engine {}   {workers} worker{plural}\n",
        env!("CARGO_PKG_VERSION"),
        serving.engine_detail
    );
    let addresses = serving.echo.iter().map(|listener| listener.address);
    let addresses = addresses.chain(serving.chat.as_ref().map(|chat| chat.address));
    let address_width = addresses.map(|address| address.to_string().len()).max().unwrap_or(0);
    for listener in &serving.echo {
        let address = listener.address.to_string();
        let _ = writeln!(
            text,
            "  echo  {address:address_width$}   {:<15}   try: {}",
            described(listener.framing),
            hint(listener)
        );
    }
    if let Some(chat) = &serving.chat {
        let _ = writeln!(
            text,
            "  chat  {:address_width$}   {:<15}   {}",
            chat.address.to_string(),
            format!("{} rooms x {}", grouped(settings.chat.rooms.into()), settings.chat.room_seats),
            chat_hint(chat, settings)
        );
    }
    if let Some(address) = serving.metrics.map(reachable) {
        let _ = writeln!(text, "  metrics  http://{address}/metrics  and /healthz");
    }
    let limits = &settings.limits;
    let allowed = descriptors
        .map(|count| format!(" (descriptors allow {})", grouped(count)))
        .unwrap_or_default();
    let per_address = match limits.sessions_per_address {
        0 => String::new(),
        sessions => format!("  {} per address", grouped(sessions.into())),
    };
    let _ = writeln!(
        text,
        "  limits  {} sessions{allowed}{per_address}  frame {}  send queue {}    wharf serve \
         --print-config",
        grouped(serving.max_sessions as u64),
        limits.frame_bytes_max,
        limits.send_queue_bytes_max
    );
    let drain = humantime::format_duration(settings.server.drain_timeout);
    let _ = writeln!(
        text,
        "  Ctrl+C drains ({drain}), twice stops at once     using cargo? write `cargo run \
         --release --` for `wharf`"
    );
    text
}

fn described(framing: Framing) -> String {
    match framing {
        Framing::Lines => "lines".to_owned(),
        Framing::Raw => "raw bytes".to_owned(),
        other => format!("{other} framing"),
    }
}

/// A command that shows this listener at work.
fn hint(listener: &EchoListener) -> String {
    let address = reachable(listener.address);
    match listener.framing {
        Framing::Study => format!("wharf bench echo --addr {address}"),
        Framing::Lines | Framing::Raw => format!("nc {} {}", address.ip(), address.port()),
        other => format!("wharf bench echo --addr {address} --framing {other}"),
    }
}

fn chat_hint(chat: &ServingChat, settings: &Settings) -> String {
    if chat.has_users {
        return format!("try: wharf chat --addr {} --user NAME", reachable(chat.address));
    }
    // Of another store than that which `wharf user` takes by itself, it has to be told.
    let store = &settings.server.store;
    let named = if *store == Settings::default().server.store {
        String::new()
    } else {
        format!(" --store {}", shell_word(&store.to_string()))
    };
    format!("no users yet: wharf user add NAME{named}   (or start with --demo)")
}

/// A word as it can be pasted into a shell.
fn shell_word(text: &str) -> String {
    if text.contains(char::is_whitespace) { format!("'{text}'") } else { text.to_owned() }
}

/// Where this machine itself reaches a listener: one cannot connect to `0.0.0.0` everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(echo: &[&str], workers: usize) -> Serving {
        Serving {
            engine: "uring".to_owned(),
            engine_detail: "io_uring (kernel 6.18, probe ok; fallback: poll)".to_owned(),
            echo: echo.iter().map(|listener| listener.parse().unwrap()).collect(),
            chat: None,
            workers,
            max_sessions: 50_000,
            metrics: None,
        }
    }

    #[test]
    fn the_chat_has_its_address_and_says_how_to_get_in() {
        let address = "127.0.0.1:11021".parse().unwrap();
        let mut serving = serving(&["127.0.0.1:9000"], 2);
        serving.chat = Some(ServingChat { address, has_users: false });
        let line = ready_line(&serving, 4242);
        let expected =
            "ready engine=uring echo=127.0.0.1:9000 chat=127.0.0.1:11021 workers=2 pid=4242";
        assert_eq!(line, expected);
        let text = banner(&serving, &Settings::default(), None);
        let expected = "  chat  127.0.0.1:11021   10 rooms x 4      no users yet: wharf user add NAME   \
                        (or start with --demo)\n";
        assert!(text.contains(expected), "{text}");
        let mut settings = Settings::default();
        settings.server.store.0 = "embedded:my users.redb".parse().unwrap();
        let text = banner(&serving, &settings, None);
        let expected = "wharf user add NAME --store 'embedded:my users.redb'   (or start";
        assert!(text.contains(expected), "{text}");
        serving.chat = Some(ServingChat { address, has_users: true });
        let text = banner(&serving, &Settings::default(), None);
        assert!(text.contains("try: wharf chat --addr 127.0.0.1:11021 --user NAME"), "{text}");
    }

    #[test]
    fn the_ready_line_is_key_value_pairs() {
        for (echo, expected) in [
            (
                &["127.0.0.1:9000", "lines@127.0.0.1:9001"][..],
                "ready engine=uring echo=127.0.0.1:9000,127.0.0.1:9001 workers=2 pid=4242",
            ),
            (&["raw@[::1]:7"][..], "ready engine=uring echo=[::1]:7 workers=2 pid=4242"),
            (&[][..], "ready engine=uring echo= workers=2 pid=4242"),
        ] {
            assert_eq!(ready_line(&serving(echo, 2), 4242), expected);
        }
    }

    #[test]
    fn the_banner_tells_a_newcomer_what_to_try() {
        let serving = serving(&["127.0.0.1:9000", "lines@127.0.0.1:9001"], 2);
        let expected = format!(
            "wharf {}   engine io_uring (kernel 6.18, probe ok; fallback: poll)   2 workers
  echo  127.0.0.1:9000   study framing     try: wharf bench echo --addr 127.0.0.1:9000
  echo  127.0.0.1:9001   lines             try: nc 127.0.0.1 9001
  limits  50,000 sessions (descriptors allow 65,536)  64 per address  frame 8 KiB  send queue 1 MiB    \
             wharf serve --print-config
  Ctrl+C drains (10s), twice stops at once     using cargo? write `cargo run --release --` for \
             `wharf`
",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(banner(&serving, &Settings::default(), Some(65_536)), expected);
    }

    #[test]
    fn hints_name_an_address_that_can_be_reached() {
        for (listener, expected) in [
            ("0.0.0.0:9000", "wharf bench echo --addr 127.0.0.1:9000"),
            ("u16be@[::]:9000", "wharf bench echo --addr [::1]:9000 --framing u16be"),
            ("lines@[::]:9000", "nc ::1 9000"),
            ("raw@10.0.0.1:9000", "nc 10.0.0.1 9000"),
        ] {
            assert_eq!(hint(&listener.parse().unwrap()), expected, "{listener}");
        }
    }

    #[test]
    fn without_a_known_limit_the_banner_claims_none() {
        let mut settings = Settings::default();
        settings.limits.sessions_per_address = 0;
        let text = banner(&serving(&["127.0.0.1:9000"], 1), &settings, None);
        assert!(text.contains("  limits  50,000 sessions  frame 8 KiB"), "{text}");
        assert!(text.contains("   1 worker\n"), "{text}");
    }
}
