//! The chat that a server carries: from settings to its users and rooms.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use wharf::{Builder, Limits};
use wharf_chat::{Accounts, Chat, Duplicate, Memory, Rate, Scheme, Settings as ChatSettings};

use crate::settings::{DuplicateLogin, Settings, Workers};
use crate::user;

/// The chat of these settings; `None` if there is to be none.
///
/// # Errors
/// The settings do not go together with the address, or the store's address is none.
pub(crate) fn chat(settings: &Settings, max_sessions: usize) -> Result<Option<(SocketAddr, Chat)>> {
    let Some(address) = settings.server.chat.0 else { return Ok(None) };
    let accounts = accounts(settings, address)?;
    Ok(Some((address, Chat::new(chat_settings(settings, max_sessions), accounts))))
}

/// Adds the chat's listener, and the threads that check passwords.
///
/// # Errors
/// Passwords would cross a network that nobody said is safe.
pub(crate) fn listen(
    builder: Builder,
    settings: &Settings,
    chat: &Chat,
    address: SocketAddr,
    limits: Limits,
) -> Result<Builder> {
    let threads = match settings.auth.check_threads {
        Workers::Auto => (Workers::Auto.count() / 2).clamp(1, 256),
        Workers::Count(count) => count as usize,
    };
    let builder = builder.offload_threads(threads).offload_queue(settings.auth.queue_max as usize);
    Ok(chat.listen(builder, address, limits)?)
}

/// The limits of the chat's sessions, where those of others are `limits`.
pub(crate) fn session_limits(settings: &Settings, limits: Limits) -> Limits {
    chat_settings(settings, 0).session_limits(limits)
}

fn accounts(settings: &Settings, address: SocketAddr) -> Result<Accounts> {
    if settings.server.demo > 0 {
        anyhow::ensure!(
            address.ip().to_canonical().is_loopback(),
            "--demo has passwords that everybody knows: it is for loopback addresses, such as \
             127.0.0.1:{}",
            address.port()
        );
        return demo(settings.server.demo);
    }
    let store = &settings.server.store.0;
    if let Some(warning) = store.warning() {
        tracing::warn!("{warning}");
    }
    store.accounts().context("the login store")
}

/// The name of the store that no other process can use while this one serves, if it is such a store.
pub(crate) fn held_store(settings: &Settings) -> Option<String> {
    if settings.server.demo > 0 { None } else { user::held_store(&settings.server.store.0) }
}

/// `user0` to `userN-1` with the password `pw`, and what the tutorial's client has in its form.
fn demo(users: u32) -> Result<Accounts> {
    // In memory, and no secrets: a hash for each would only delay the start.
    let accounts = Accounts::new(Memory::new(Scheme::Plain));
    for user in 0..users {
        accounts.add(&format!("user{user}"), "pw")?;
    }
    accounts.add("jacking75", "jacking75")?;
    tracing::warn!(users, "demo: everybody knows these users' passwords");
    Ok(accounts)
}

fn chat_settings(settings: &Settings, max_sessions: usize) -> ChatSettings {
    let chat = &settings.chat;
    let none_if_zero = |time: std::time::Duration| (!time.is_zero()).then_some(time);
    ChatSettings {
        rooms: chat.rooms,
        room_seats: chat.room_seats,
        room_notifications: chat.room_notifications,
        notify_seats_max: chat.notify_seats_max,
        rate: Rate { per_second: chat.messages_per_second, burst: chat.messages_burst },
        first_frame_timeout: none_if_zero(chat.first_frame_timeout),
        login_timeout: none_if_zero(chat.login_timeout),
        duplicate_login: match chat.duplicate_login {
            DuplicateLogin::Refuse => Duplicate::Refuse,
            DuplicateLogin::Kick => Duplicate::Kick,
        },
        users_max: max_sessions,
        address_failures_per_minute: settings.auth.address_failures_per_minute,
        allow_plaintext_login: settings.server.allow_plaintext_login,
    }
}
