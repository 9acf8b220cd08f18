//! A heartbeat with its round trip, for `nc`: who does not answer is cut off, and who does learns how
//! long it took.
//!
//! ```text
//! cargo run --example heartbeat
//! nc 127.0.0.1 9001     (in another terminal: when it says ping, say pong)
//! ```

use std::{net::ToSocketAddrs, time::Duration};

use wharf::{Class, Context, Frame, Handler, Limits, Server, framing::Lines};

struct Pulse;

impl Handler for Pulse {
    type Session = ();

    fn on_heartbeat(&mut self, cx: &mut Context<'_, ()>) -> wharf::Result<bool> {
        // Before all that waits, so that what is measured is the way and not the queue.
        cx.send_as(Class::Control, 0, b"ping")?;
        Ok(true)
    }

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, line: Frame<'_>) -> wharf::Result {
        match line.body() {
            b"pong" => cx.heartbeat_answered(),
            _ => {
                let known = cx.round_trip();
                let known = known.map_or("not yet known".to_owned(), |took| format!("{took:.1?}"));
                cx.send(format!("your round trip is {known}").as_bytes())?;
            }
        }
        Ok(())
    }
}

fn server(address: impl ToSocketAddrs + std::fmt::Debug, interval: Duration) -> wharf::Builder {
    let limits = Limits {
        heartbeat_interval: Some(interval),
        heartbeat_timeout: Some(Duration::from_secs(20)), // a person types the answer
        first_frame_timeout: None,
        ..Limits::default()
    };
    Server::builder().limits(limits).listen(address, Lines, || Pulse)
}

fn main() -> wharf::Result {
    server("127.0.0.1:9001", Duration::from_secs(5)).run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpStream,
    };

    use super::*;

    #[test]
    fn who_answers_is_told_how_long_it_took() {
        let server = server("127.0.0.1:0", Duration::from_millis(10)).workers(1).start().unwrap();
        let stream = TcpStream::connect(server.local_addrs()[0]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut terminal = BufReader::new(stream);
        terminal.get_mut().write_all(b"how long?\n").unwrap();
        let mut lines = Vec::new();
        // Each answer is asked about behind it.
        while lines.iter().filter(|line| *line == "ping").count() < 3 {
            let mut line = String::new();
            terminal.read_line(&mut line).unwrap();
            lines.push(line.trim_end().to_owned());
            if lines.last().is_some_and(|line| line == "ping") {
                terminal.get_mut().write_all(b"pong\nhow long?\n").unwrap();
            }
        }
        let told: Vec<_> = lines.iter().filter(|line| *line != "ping").collect();
        assert_eq!(told[0], "your round trip is not yet known");
        assert!(told.len() > 1 && told[1].ends_with("s") && told[1] != told[0], "{told:?}");
        drop(terminal);
        server.drain(Duration::from_secs(5));
        assert!(server.join().unwrap().leftover.is_nothing());
    }
}
