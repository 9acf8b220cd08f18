//! From settings to a running server, and the echo that it serves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use wharf::framing::AnyFraming;
use wharf::port::{self, EngineInfo, Keepalive, ListenOptions, SocketOptions};
use wharf::{Class, Context, Frame, Handle, Handler, Limits, Server};
use wharf_chat::Chat;

use crate::announce::{Serving, ServingChat};
use crate::settings::{
    Dispatch, EchoListener, Engine, Flush, Framing, OverRate, SendPolicy, Settings,
};
use crate::{content, descriptors, doctor};

/// A server that has started.
pub(crate) struct Running {
    /// What it serves, with port 0 resolved.
    pub(crate) serving: Serving,
    pub(crate) handle: Handle,
    /// Frames that the echo did not send back, because they were none to echo.
    pub(crate) ignored: Arc<AtomicU64>,
    pub(crate) chat: Option<Chat>,
}

/// Starts a server: all listeners are bound and accept when this returns. `descriptors` is how many
/// sockets and files the process may open, where the system limits them.
pub(crate) fn start(settings: &Settings, descriptors: Option<u64>) -> Result<Running> {
    let ignored = Arc::new(AtomicU64::new(0));
    let max_sessions = max_sessions(settings, descriptors);
    let mut builder = Server::builder()
        .workers(settings.server.workers.count())
        .port(port_config(settings))
        .dispatch(match settings.server.dispatch {
            Dispatch::Inline => wharf::Dispatch::Inline,
            Dispatch::Threads(threads) => wharf::Dispatch::Threads(threads as usize),
        })
        .slow_handler(settings.server.slow_handler.0)
        .sockets(listen_options(settings))
        .max_sessions(max_sessions)
        .send_memory_max(usize::try_from(settings.server.send_memory_max.0)?)
        .share_listeners(settings.server.share_listeners)
        .flush(match settings.server.flush {
            Flush::Turn => wharf::FlushPolicy::PerTurn,
            Flush::EveryMs(ms) => wharf::FlushPolicy::Every(ms),
        })
        .send_policy(match settings.server.send_policy {
            SendPolicy::Auto => wharf::SendPolicy::Auto,
            SendPolicy::Accumulate => wharf::SendPolicy::Accumulate,
            SendPolicy::Queue => wharf::SendPolicy::Queue,
        });
    for (listener, limits) in settings.server.echo.iter().zip(listener_limits(settings)?) {
        let is_study = listener.framing == Framing::Study;
        let ignored = Arc::clone(&ignored);
        let echo = move || Echo { is_study, ignored: Arc::clone(&ignored) };
        builder = builder.limits(limits);
        // The hot path is compiled for each kind of framing, instead of asking for it per frame.
        builder = match any_framing(listener.framing) {
            AnyFraming::LengthField(framing) => builder.listen(listener.address, framing, echo),
            AnyFraming::Lines(framing) => builder.listen(listener.address, framing, echo),
            AnyFraming::Raw(framing) => builder.listen(listener.address, framing, echo),
        };
    }
    let chat = content::chat(settings, max_sessions)?;
    if let Some((address, chat)) = &chat {
        builder = content::listen(builder, settings, chat, *address, limits(settings)?)?;
    }
    let handle = builder.start().map_err(|error| explain(error, settings))?;
    let listeners = settings.server.echo.iter().zip(handle.local_addrs());
    let echo =
        listeners.map(|(listener, &address)| EchoListener { address, ..*listener }).collect();
    let engine = &handle.engines()[0];
    let serving = Serving {
        engine: engine.engine.to_string(),
        engine_detail: engine_detail(engine),
        echo,
        chat: chat.as_ref().and_then(|(_, chat)| {
            let address = *handle.local_addrs().get(settings.server.echo.len())?;
            Some(ServingChat { address, has_users: chat.accounts().is_empty() != Some(true) })
        }),
        workers: handle.engines().len(),
        max_sessions,
        metrics: None,
    };
    Ok(Running { serving, handle, ignored, chat: chat.map(|(_, chat)| chat) })
}

/// The limits of each listener, in the order of [`Handle::local_addrs`].
pub(crate) fn listener_limits(settings: &Settings) -> Result<Vec<Limits>> {
    let limits = limits(settings)?;
    let chat = settings.server.chat.0.map(|_| content::session_limits(settings, limits.clone()));
    Ok(vec![limits; settings.server.echo.len()].into_iter().chain(chat).collect())
}

/// Adds to a failed start what the one who typed it can do about it.
fn explain(error: wharf::Error, settings: &Settings) -> anyhow::Error {
    let in_use = matches!(&error, wharf::Error::Io { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
    let error = anyhow::Error::from(error);
    if !in_use {
        return error;
    }
    let holder = |port: u16| {
        let holder = doctor::holder(port)?;
        Some(format!("port {port} belongs to {} (pid {})", holder.name, holder.process_id))
    };
    let echo = settings.server.echo.iter().map(|listener| listener.address.port());
    let ports = echo.chain(settings.server.chat.0.map(|address| address.port()));
    let holders: Vec<String> = ports.filter_map(holder).collect();
    let found =
        if holders.is_empty() { String::new() } else { format!("; {}", holders.join(", ")) };
    anyhow::anyhow!("{error}{found}; --echo [FRAMING@]ADDR and --chat ADDR name other addresses")
}

/// Returns every frame, or, in the `study` format, those with the packet id of an echo; in that it has a
/// heartbeat, too.
struct Echo {
    is_study: bool,
    ignored: Arc<AtomicU64>,
}

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
        if self.is_study && frame.id() != STUDY_ECHO_ID {
            if frame.id() == STUDY_HEARTBEAT_ID {
                cx.heartbeat_answered();
            } else {
                self.ignored.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(());
        }
        cx.send_packet(frame.id(), frame.body())?;
        Ok(())
    }

    fn on_heartbeat(&mut self, cx: &mut Context<'_, ()>) -> wharf::Result<bool> {
        if self.is_study {
            cx.send_as(Class::Control, STUDY_HEARTBEAT_ID, b"")?;
        }
        Ok(self.is_study)
    }
}

/// The packet id that the `study` format echoes; others are for a logic that is not there.
pub(crate) const STUDY_ECHO_ID: u32 = 1;

/// The packet id with which the `study` echo asks for a sign of life, and is answered.
pub(crate) const STUDY_HEARTBEAT_ID: u32 = 2;

/// The library's framing of this name.
pub(crate) fn any_framing(framing: Framing) -> AnyFraming {
    framing.to_string().parse().expect("the program offers the library's framings by their names")
}

/// The library's engine of this name.
pub(crate) fn engine_choice(engine: Engine) -> port::EngineChoice {
    engine.to_string().parse().expect("the program offers the library's engines by their names")
}

fn port_config(settings: &Settings) -> port::Config {
    port::Config {
        engine: engine_choice(settings.server.engine),
        receive_buffers: u16::try_from(settings.port.receive_buffers)
            .expect("the settings allow no more"),
        receive_buffer_bytes: small(settings.port.receive_buffer_bytes.0),
        spin: Duration::from_micros(settings.server.spin_us.into()),
        ..port::Config::default()
    }
}

fn listen_options(settings: &Settings) -> ListenOptions {
    let sockets = &settings.sockets;
    let system_if_zero = |bytes: u64| (bytes > 0).then(|| small(bytes) as usize);
    ListenOptions {
        backlog: sockets.backlog,
        socket: SocketOptions {
            nodelay: sockets.nodelay,
            keepalive: sockets.keepalive.then_some(Keepalive {
                idle: sockets.keepalive_idle,
                interval: sockets.keepalive_interval,
                probes: sockets.keepalive_probes,
            }),
            user_timeout: (!sockets.user_timeout.is_zero()).then_some(sockets.user_timeout),
            receive_buffer_bytes: system_if_zero(sockets.receive_buffer.0),
            send_buffer_bytes: system_if_zero(sockets.send_buffer.0),
            source: None,
        },
    }
}

fn limits(settings: &Settings) -> Result<Limits> {
    let limits = &settings.limits;
    let unless_zero = |timeout: Duration| (!timeout.is_zero()).then_some(timeout);
    Ok(Limits {
        sessions_per_address: (limits.sessions_per_address > 0)
            .then_some(limits.sessions_per_address),
        accepts_per_second_per_address: (limits.accepts_per_second_per_address > 0)
            .then_some(limits.accepts_per_second_per_address),
        frame_bytes_max: usize::try_from(limits.frame_bytes_max.0)?,
        first_frame_timeout: unless_zero(limits.first_frame_timeout),
        frame_timeout: unless_zero(limits.frame_timeout),
        idle_read_timeout: unless_zero(limits.idle_read_timeout),
        idle_write_timeout: unless_zero(limits.idle_write_timeout),
        heartbeat_interval: unless_zero(limits.heartbeat_interval),
        heartbeat_timeout: unless_zero(limits.heartbeat_timeout),
        frames_per_second: (limits.frames_per_second > 0).then_some(limits.frames_per_second),
        bytes_per_second: (limits.bytes_per_second.0 > 0).then_some(limits.bytes_per_second.0),
        over_rate: match limits.over_rate {
            OverRate::Delay => wharf::OverRate::Delay,
            OverRate::Close => wharf::OverRate::Close,
        },
        unauthenticated_receive_bytes_max: usize::try_from(
            limits.unauthenticated_receive_bytes_max.0,
        )?,
        unauthenticated_send_bytes_max: usize::try_from(limits.unauthenticated_send_bytes_max.0)?,
        unauthenticated_timeout: unless_zero(limits.unauthenticated_timeout),
        send_queue_bytes_soft: usize::try_from(limits.send_queue_bytes_soft.0)?,
        send_queue_bytes_max: usize::try_from(limits.send_queue_bytes_max.0)?,
        send_queue_soft_timeout: unless_zero(limits.send_queue_soft_timeout),
        close_flush_timeout: limits.close_flush_timeout,
        linger_timeout: limits.linger_timeout,
        linger_bytes_max: usize::try_from(limits.linger_bytes_max.0)?,
        control_bytes_max: usize::try_from(limits.control_bytes_max.0)?,
        topics_max: limits.topics_max as usize,
        logic_queue_bytes_max: usize::try_from(limits.logic_queue_bytes_max.0)?,
        receive_credit_bytes: small(settings.port.receive_credit_bytes.0),
    })
}

/// No more sessions than there are descriptors for: a connection that is refused knows it at once,
/// one that waits for a descriptor does not.
fn max_sessions(settings: &Settings, descriptors: Option<u64>) -> usize {
    let wanted = settings.server.max_sessions;
    let room = descriptors.map_or(u64::MAX, |all| all.saturating_sub(descriptors::RESERVED).max(1));
    u32::try_from(room).map_or(wanted, |room| room.min(wanted)) as usize
}

/// A size that the settings keep below 4 GiB.
fn small(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The engine as people are told it.
pub(crate) fn engine_detail(info: &EngineInfo) -> String {
    let name = match info.engine {
        port::Engine::Uring => "io_uring",
        port::Engine::Iocp => "IOCP",
        port::Engine::Poll | port::Engine::Sim => info.engine.name(),
    };
    match &info.fell_back {
        Some(reason) => format!("{name} ({}; fallback from {reason})", info.detail),
        None => format!("{name} ({})", info.detail),
    }
}

/// One engine: its name and what it offers here, or why it cannot be used.
pub(crate) type EngineProbe = (String, Result<String, String>);

/// Tries every engine that this build has.
pub(crate) fn probe_engines() -> Vec<EngineProbe> {
    let result = |result: std::io::Result<EngineInfo>| match result {
        Ok(info) => Ok(info.detail),
        Err(error) => Err(error.to_string()),
    };
    port::probe().into_iter().map(|(engine, probed)| (engine.to_string(), result(probed))).collect()
}
