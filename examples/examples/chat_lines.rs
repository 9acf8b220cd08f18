//! A chat room for `nc`: data per session, sending to others, timers.
//!
//! ```text
//! cargo run --example chat_lines
//! nc 127.0.0.1 9001     (in two other terminals; the first line is your name)
//! ```

use std::{
    collections::BTreeMap,
    net::ToSocketAddrs,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use wharf::{CloseReason, Context, Frame, Handle, Handler, Server, SessionId, framing::Lines};

/// Who is in the room. Sessions live on different threads, so the list is shared; each worker has
/// a [`Chat`] of its own that leads to it.
type Room = Arc<Mutex<BTreeMap<SessionId, String>>>;

struct Chat {
    room: Room,
    patience: Duration,
}

/// What the server remembers of one connection.
#[derive(Default)]
struct Guest {
    name: Option<String>,
}

const IDLE: u64 = 1;

impl Handler for Chat {
    type Session = Guest;

    fn on_open(&mut self, cx: &mut Context<'_, Guest>) -> wharf::Result {
        cx.set_timer(self.patience, IDLE);
        cx.send("what is your name?".as_bytes())?;
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, Guest>, line: Frame<'_>) -> wharf::Result {
        // Setting a timer again moves it: it fires only after silence.
        cx.set_timer(self.patience, IDLE);
        let line = String::from_utf8_lossy(line.body()).trim().replace(char::is_control, "");
        let id = cx.id();
        match cx.data().name.clone() {
            Some(name) => self.say(cx.handle(), &format!("{name}: {line}")),
            None if line.is_empty() => cx.send(b"a name has letters")?,
            None => {
                cx.data().name = Some(line.clone());
                self.room().insert(id, line.clone());
                self.say(cx.handle(), &format!("* {line} is here"));
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Guest>, _key: u64) -> wharf::Result {
        cx.send(b"* you have fallen asleep")?;
        cx.close(); // what was queued is sent first
        Ok(())
    }

    fn on_close(&mut self, cx: &mut Context<'_, Guest>, _reason: CloseReason) {
        let left = self.room().remove(&cx.id());
        if let Some(name) = left {
            self.say(cx.handle(), &format!("* {name} has left"));
        }
    }
}

impl Chat {
    fn room(&self) -> std::sync::MutexGuard<'_, BTreeMap<SessionId, String>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says it to everybody in the room, whichever worker they are on.
    fn say(&self, handle: &Handle, line: &str) {
        for id in self.room().keys() {
            // One who is just leaving misses it: the answer is `Closed`, and nobody else gets it.
            let _ = handle.send(*id, line.as_bytes());
        }
    }
}

fn server(address: impl ToSocketAddrs + std::fmt::Debug, patience: Duration) -> wharf::Builder {
    let room = Room::default();
    Server::builder().listen(address, Lines, move || Chat { room: Arc::clone(&room), patience })
}

fn main() -> wharf::Result {
    server("127.0.0.1:9001", Duration::from_secs(600)).run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{SocketAddr, TcpStream},
    };

    use super::*;

    struct Terminal(BufReader<TcpStream>);

    impl Terminal {
        fn open(address: SocketAddr, name: &str) -> Self {
            let mut terminal = Self(BufReader::new(TcpStream::connect(address).unwrap()));
            assert_eq!(terminal.line(), "what is your name?");
            terminal.say(name);
            assert_eq!(terminal.line(), format!("* {name} is here"));
            terminal
        }

        fn say(&mut self, line: &str) {
            self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        }

        fn line(&mut self) -> String {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        }
    }

    #[test]
    fn two_guests_hear_each_other() {
        let server = server("127.0.0.1:0", Duration::from_secs(600)).workers(2).start().unwrap();
        let address = server.local_addrs()[0];
        let mut ann = Terminal::open(address, "ann");
        let mut bob = Terminal::open(address, "bob");
        assert_eq!(ann.line(), "* bob is here");
        bob.say("hello\u{7}");
        assert_eq!([ann.line(), bob.line()], ["bob: hello", "bob: hello"]);
        drop(bob);
        assert_eq!(ann.line(), "* bob has left");
        drop(ann);
        server.drain(Duration::from_secs(5));
        assert!(server.join().unwrap().leftover.is_nothing());
    }

    #[test]
    fn who_says_nothing_is_sent_home() {
        let server = server("127.0.0.1:0", Duration::from_millis(50)).workers(1).start().unwrap();
        let mut quiet = Terminal::open(server.local_addrs()[0], "quiet");
        assert_eq!([quiet.line(), quiet.line()], ["* you have fallen asleep", ""]);
        drop(quiet);
        server.drain(Duration::from_secs(5));
        assert!(server.join().unwrap().leftover.is_nothing());
    }
}
