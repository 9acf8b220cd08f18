//! Topics and send classes: rooms in which people talk and walk about, for `nc`.
//!
//! ```text
//! cargo run --example topics
//! nc 127.0.0.1 9001     (in two other terminals: join 7, say hello, at 3 4)
//! ```

use std::net::ToSocketAddrs;

use wharf::{Class, Context, Frame, Handler, Server, Topic, framing::Lines};

struct Rooms;

impl Handler for Rooms {
    type Session = Option<Topic>; // the room that one is in

    fn on_frame(&mut self, cx: &mut Context<'_, Self::Session>, line: Frame<'_>) -> wharf::Result {
        let line = String::from_utf8_lossy(line.body()).into_owned();
        let (verb, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (verb, *cx.data()) {
            ("join", old) => {
                let room = Topic(rest.parse().unwrap_or(0));
                old.into_iter().for_each(|old| cx.unsubscribe(old));
                cx.subscribe(room)?;
                *cx.data() = Some(room);
                cx.send(b"you are in")?;
            }
            // To everybody in the room, in one order; one who has no room for it is cut off.
            ("say", Some(room)) => cx.publish(room, Class::Reliable, 0, rest.as_bytes())?,
            // Only the newest place of each is of use: it takes that of the one that still waits.
            ("at", Some(room)) => {
                let (key, place) = (cx.id().as_u64(), format!("{} is at {rest}", cx.id()));
                cx.publish(room, Class::Latest(key), 0, place.as_bytes())?;
            }
            _ => cx.send(b"join ROOM, then say TEXT, or at X Y")?,
        }
        Ok(())
    }
}

fn server(address: impl ToSocketAddrs + std::fmt::Debug) -> wharf::Builder {
    Server::builder().listen(address, Lines, || Rooms)
}

fn main() -> wharf::Result {
    server("127.0.0.1:9001").run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{SocketAddr, TcpStream},
        time::Duration,
    };

    use super::*;

    struct Terminal(BufReader<TcpStream>);

    impl Terminal {
        fn open(address: SocketAddr, room: u64) -> Self {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let mut terminal = Self(BufReader::new(stream));
            assert_eq!(terminal.ask(&format!("join {room}")), "you are in");
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

        fn ask(&mut self, line: &str) -> String {
            self.say(line);
            self.line()
        }
    }

    #[test]
    fn a_room_hears_its_own_and_no_other() {
        let rooms = server("127.0.0.1:0").workers(2).start().unwrap();
        let address = rooms.local_addrs()[0];
        let [mut ann, mut bob, mut eve] = [1, 1, 2].map(|room| Terminal::open(address, room));
        ann.say("say hello");
        assert_eq!([ann.line(), bob.line()], ["hello", "hello"]);
        let place = bob.ask("at 3 4");
        assert!(place.ends_with(" is at 3 4"), "{place}");
        assert_eq!(ann.line(), place);
        // Eve hears the first thing in her room, and nothing from before she changed it.
        assert_eq!(eve.ask("say nobody?"), "nobody?");
        assert_eq!(eve.ask("join 1"), "you are in");
        assert_eq!(ann.ask("say hello, eve"), "hello, eve");
        assert_eq!([bob.line(), eve.line()], ["hello, eve", "hello, eve"]);
        assert!(eve.ask("sing").starts_with("join ROOM"));
        drop((ann, bob, eve));
        rooms.drain(Duration::from_secs(5));
        assert!(rooms.join().unwrap().leftover.is_nothing());
    }
}
