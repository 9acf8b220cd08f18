//! `wharf reload`: reads file and environment again, and changes what can change while it runs.

use anyhow::{Result, bail};
use wharf::Handle;

use crate::drain::Drain;
use crate::network;
use crate::settings::{self, DEFINITIONS, Definition, Loaded, Settings, Sources};

/// What a running server was started with, and what it runs with now.
pub(crate) struct Reload {
    sources: Sources,
    /// The settings that count now.
    settings: Settings,
}

/// What a reload has done, a line for each setting.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) changed: Vec<String>,
    /// Settings that differ and count only after a restart.
    pub(crate) restart: Vec<String>,
}

impl Reload {
    /// Nothing is read yet: `settings` are what the server was started with, from `sources`.
    pub(crate) fn new(sources: Sources, settings: Settings) -> Self {
        Self { sources, settings }
    }

    /// Reads the sources again; the flags are those of the start.
    ///
    /// # Errors
    /// Something is wrong with the settings, or the workers cannot take them for now: then what
    /// counted before counts on, and it can be tried again.
    pub(crate) fn run(&mut self, handle: &Handle, drain: &Drain) -> Result<Done> {
        let loaded = match settings::load(self.sources.clone()) {
            Ok(loaded) => loaded,
            Err(problems) => {
                bail!("nothing was changed, because the settings are wrong:\n{problems}")
            }
        };
        let done = compare(&self.settings, &loaded);
        let next = merged(&self.settings, &loaded.settings);
        for (listener, limits) in network::listener_limits(&next)?.iter().enumerate() {
            handle.set_limits(listener, limits)?;
        }
        // Whoever hears that it is done may connect at once: every worker that answers has taken it in.
        handle.stats()?;
        drain.set_timeout(next.server.drain_timeout);
        self.settings = next;
        for line in &done.changed {
            tracing::info!(change = line, "reloaded");
        }
        for line in &done.restart {
            tracing::warn!(change = line, "needs a restart");
        }
        Ok(done)
    }
}

/// What differs between the settings that count and those that were read.
fn compare(now: &Settings, loaded: &Loaded) -> Done {
    let mut done = Done::default();
    for (definition, origin) in DEFINITIONS.iter().zip(&loaded.origins) {
        if (definition.same)(now, &loaded.settings) {
            continue;
        }
        let (before, after) = ((definition.toml)(now), (definition.toml)(&loaded.settings));
        let before = if before == after { "the same with another password" } else { &before };
        let line = format!("{} = {after} ({origin}), was {before}", definition.key);
        let list = if is_reloadable(definition) { &mut done.changed } else { &mut done.restart };
        list.push(line);
    }
    done
}

/// Whether a running server can be given another value. All limits of sessions can: they are for
/// those that open afterwards. What a thread, a socket or a buffer was made with cannot.
pub(crate) fn is_reloadable(definition: &Definition) -> bool {
    definition.section == "limits"
        || matches!(definition.key, "port.receive_credit_bytes" | "server.drain_timeout")
}

/// The settings that count when what can change has changed.
fn merged(now: &Settings, loaded: &Settings) -> Settings {
    let mut next = now.clone();
    next.limits = loaded.limits.clone();
    next.port.receive_credit_bytes = loaded.port.receive_credit_bytes;
    next.server.drain_timeout = loaded.server.drain_timeout;
    next
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpStream};
    use std::sync::{Arc, Mutex, mpsc};
    use std::thread;
    use std::time::Duration;

    use wharf::framing::Lines;
    use wharf::{Context, Frame, Handler, Server};

    use super::*;

    #[test]
    fn another_password_is_told_and_not_shown() {
        let with = |store: &str| {
            let environment = vec![("WHARF_STORE".to_owned(), store.to_owned())];
            settings::load(Sources { environment, ..Sources::default() }).unwrap()
        };
        let now = with("redis:redis://kim:one@host").settings;
        assert_eq!(compare(&now, &with("redis:redis://kim:one@host")).restart, [""; 0]);
        assert_eq!(
            compare(&now, &with("redis:redis://kim:two@host")).restart,
            ["server.store = \"redis:redis://kim:***@host\" (env WHARF_STORE), was the same with \
              another password"]
        );
    }

    /// Another value than the default, if the setting has one that stands alone.
    fn other_value(definition: &Definition) -> String {
        let choices = (definition.choices)();
        let other =
            choices.iter().map(|choice| choice.get_name()).find(|name| *name != definition.default);
        if let Some(name) = other {
            return name.to_owned();
        }
        match definition.unit {
            _ if definition.key == "server.dispatch" => "threads:7".to_owned(),
            "s" => "7s".to_owned(),
            "bytes" if definition.key == "server.send_memory_max" => "2GiB".to_owned(),
            "bytes" => "12345".to_owned(),
            "" if definition.key == "server.store" => "embedded:elsewhere".to_owned(),
            "" => "127.0.0.1:1".to_owned(),
            _ => "77".to_owned(),
        }
    }

    /// What is said to change does, and what is said to need a restart stays; every limit that is
    /// said to change reaches the library.
    #[test]
    fn what_can_change_is_what_does() {
        let now = Settings::default();
        for definition in DEFINITIONS {
            let mut read = Settings::default();
            (definition.set)(&mut read, &other_value(definition)).unwrap();
            let value = |settings: &Settings| (definition.toml)(settings);
            assert_ne!(value(&read), value(&now), "{}", definition.key);
            let next = merged(&now, &read);
            let has_changed = value(&next) == value(&read);
            assert_eq!(has_changed, is_reloadable(definition), "{}", definition.key);
            let is_limit = has_changed && definition.key != "server.drain_timeout";
            let reaches =
                network::listener_limits(&next).unwrap() != network::listener_limits(&now).unwrap();
            assert_eq!(reaches, is_limit, "{}", definition.key);
        }
    }

    #[test]
    fn differences_are_told_with_their_place() {
        let environment = vec![
            ("WHARF_LIMITS_FRAME_BYTES_MAX".to_owned(), "16KiB".to_owned()),
            ("WHARF_SPIN_US".to_owned(), "5".to_owned()),
        ];
        let sources = Sources { environment, ..Sources::default() };
        let done = compare(&Settings::default(), &settings::load(sources).unwrap());
        assert_eq!(
            done.changed,
            ["limits.frame_bytes_max = \"16KiB\" (env WHARF_LIMITS_FRAME_BYTES_MAX), was \"8KiB\""]
        );
        assert_eq!(done.restart, ["server.spin_us = 5 (env WHARF_SPIN_US), was 0"]);
    }

    /// Says that it is busy with a frame, and stays so until it is told.
    #[derive(Clone)]
    struct Busy {
        is_busy: mpsc::Sender<()>,
        go_on: Arc<Mutex<mpsc::Receiver<()>>>,
    }

    impl Handler for Busy {
        type Session = ();

        fn on_frame(&mut self, cx: &mut Context<'_, ()>, frame: Frame<'_>) -> wharf::Result {
            let _ = self.is_busy.send(());
            // Where the test has failed, nobody tells it any more.
            let _ = self.go_on.lock().unwrap().recv();
            Ok(cx.send(frame.body())?)
        }
    }

    /// It is not done while a worker has the old limits: whoever hears of it may connect at once.
    #[test]
    fn a_reload_is_done_when_a_busy_worker_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("wharf.toml");
        let write = |bytes: u32| {
            let served = "[server]\nchat = \"off\"\necho = [\"lines@127.0.0.1:0\"]\n";
            fs::write(&file, format!("{served}[limits]\nframe_bytes_max = {bytes}\n")).unwrap();
        };
        write(100);
        let sources = Sources { directory: directory.path().to_owned(), ..Sources::default() };
        let settings = settings::load(sources.clone()).unwrap().settings;
        let ((is_busy, busy), (go_on, told)) = (mpsc::channel(), mpsc::channel());
        let handler = Busy { is_busy, go_on: Arc::new(Mutex::new(told)) };
        let server = Server::builder().workers(1);
        let server = server.limits(network::listener_limits(&settings).unwrap().remove(0));
        let server = server.listen("127.0.0.1:0", Lines, move || handler.clone());
        let handle = server.start().unwrap();
        let connect = || TcpStream::connect(handle.local_addrs()[0]).unwrap();
        let drain = Drain::new(handle.clone(), Duration::from_secs(1));
        let mut reload = Reload::new(sources, settings);

        let mut before = connect();
        before.write_all(b"keeps it busy\n").unwrap();
        busy.recv().unwrap();
        write(10);
        let (done, is_done) = mpsc::channel();
        let theirs = handle.clone();
        let reloading = thread::spawn(move || done.send(reload.run(&theirs, &drain)).unwrap());
        // As long as the worker is busy; that it is for so long proves nothing but a wrong answer.
        let too_soon = is_done.recv_timeout(Duration::from_millis(300));
        assert!(too_soon.is_err(), "the worker cannot have heard of it: {too_soon:?}");
        go_on.send(()).unwrap();
        assert_eq!(is_done.recv().unwrap().unwrap().changed.len(), 1);
        reloading.join().unwrap();

        drop(go_on);
        let mut answer = Vec::new();
        let mut after = connect();
        after.write_all(b"longer than ten\n").unwrap();
        after.shutdown(Shutdown::Write).unwrap();
        // A reset is an end, too.
        let _ = after.read_to_end(&mut answer);
        assert_eq!(answer, b"", "it has the new limit");
        before.shutdown(Shutdown::Write).unwrap();
        before.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"keeps it busy\n");
        handle.drain(Duration::from_secs(1));
        handle.join().unwrap();
    }
}
