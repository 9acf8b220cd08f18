//! Where blocking work goes: a shop for `nc` that looks up its customers in a file.
//!
//! ```text
//! cargo run --example blocking_work -- customers.txt     (a name on each line)
//! nc 127.0.0.1 9001                                      (login NAME, then buy NUMBER)
//! ```

use std::{
    fs, io,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
    sync::Arc,
};

use wharf::{Context, Dispatch, Frame, Handler, Job, SendError, Server, SessionId, framing::Lines};

/// Who may buy. Reading it may take long: the file may be on another machine.
fn is_customer(file: &Path, name: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(file)?.lines().any(|line| line == name))
}

struct Shop {
    customers: Arc<Path>,
}

/// What the server remembers of one connection.
#[derive(Default)]
struct Visitor {
    name: Option<String>,
}

impl Handler for Shop {
    type Session = Visitor;

    fn on_frame(&mut self, cx: &mut Context<'_, Visitor>, line: Frame<'_>) -> wharf::Result {
        let line = String::from_utf8_lossy(line.body()).into_owned();
        match line.trim().split_once(' ') {
            Some(("login", name)) => self.login(cx, name.to_owned()),
            Some(("buy", number)) => buy(cx, number),
            _ => Ok(cx.send(b"login NAME, or buy NUMBER")?),
        }
    }
}

impl Shop {
    /// Blocking work, whose result decides what the next frame means.
    fn login(&self, cx: &mut Context<'_, Visitor>, name: String) -> wharf::Result {
        let (file, asked) = (Arc::clone(&self.customers), name.clone());
        let work = move || is_customer(&file, &asked); // on a thread of the pool
        let done = move |cx: &mut Context<'_, Visitor>, found: io::Result<bool>| {
            match found {
                Ok(true) => {
                    cx.send(format!("welcome, {name}").as_bytes())?;
                    cx.data().name = Some(name);
                }
                Ok(false) => cx.send(b"nobody of that name")?,
                Err(error) => cx.send(format!("not now: {error}").as_bytes())?,
            }
            cx.release(); // what was said meanwhile comes now, in order
            Ok(())
        };
        match cx.offload(work, done) {
            Ok(()) => cx.hold(),
            Err(SendError::WouldExceed) => cx.send(b"too many are logging in: try again")?,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// One thing of the shop, which many sessions want: only jobs of its number touch it.
#[derive(Default)]
struct Thing {
    sold_to: Option<String>,
}

fn buy(cx: &mut Context<'_, Visitor>, number: &str) -> wharf::Result {
    let Some(name) = cx.data().name.clone() else { return Ok(cx.send(b"log in first")?) };
    let Ok(number) = number.parse::<u64>() else { return Ok(cx.send(b"not a number")?) };
    let buyer = cx.id();
    cx.post(number, move |job: &mut Job<'_>| sell(job, number, buyer, name))?;
    Ok(())
}

fn sell(job: &mut Job<'_>, number: u64, buyer: SessionId, name: String) {
    let (thing, handle) = job.split::<Thing>();
    let answer = match &thing.sold_to {
        Some(other) => format!("{other} has bought {number}"),
        None => format!("{number} is yours, {name}"),
    };
    thing.sold_to.get_or_insert(name);
    // Whoever has left meanwhile has bought it all the same, and is not told.
    let _ = handle.send(buyer, answer.as_bytes());
}

fn server(
    address: impl ToSocketAddrs + std::fmt::Debug,
    customers: Arc<Path>,
    dispatch: Dispatch,
) -> wharf::Builder {
    Server::builder()
        .listen(address, Lines, move || Shop { customers: Arc::clone(&customers) })
        .dispatch(dispatch) // Inline, or Threads(n): the handlers are the same
        .offload_threads(4) // so many files are read at one time
        .offload_queue(256) // so many more wait; the next one is told to try again
}

fn main() -> wharf::Result {
    let file = std::env::args_os().nth(1).map_or_else(|| "customers.txt".into(), PathBuf::from);
    server("127.0.0.1:9001", file.into(), Dispatch::Inline).run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{SocketAddr, TcpStream},
        time::Duration,
    };

    use wharf::Handle;

    use super::*;

    struct Terminal(BufReader<TcpStream>);

    impl Terminal {
        fn open(address: SocketAddr) -> Self {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            Self(BufReader::new(stream))
        }

        fn say(&mut self, lines: &str) {
            self.0.get_mut().write_all(lines.as_bytes()).unwrap();
        }

        fn line(&mut self) -> String {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        }
    }

    /// Runs a test against a shop with customers `c0` to `c7`, its handlers inline and on threads.
    fn with_shops(name: &str, test: impl Fn(&Handle)) {
        let file = format!("wharf-{name}-{}", std::process::id());
        let file: Arc<Path> = std::env::temp_dir().join(file).into();
        fs::write(&file, "c0\nc1\nc2\nc3\nc4\nc5\nc6\nc7\n").unwrap();
        for dispatch in [Dispatch::Inline, Dispatch::Threads(2)] {
            let shop = server("127.0.0.1:0", Arc::clone(&file), dispatch).workers(2);
            let shop = shop.start().unwrap();
            test(&shop);
            shop.drain(Duration::from_secs(5));
            assert!(shop.join().unwrap().leftover.is_nothing());
        }
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn what_is_said_behind_a_login_waits_for_it() {
        with_shops("waits", |shop| {
            let mut terminal = Terminal::open(shop.local_addrs()[0]);
            terminal.say("buy 7\nlogin nobody\nbuy 7\nlogin c1\nbuy 7\nbuy x\nsteal 7\n");
            let expected = [
                "log in first",
                "nobody of that name",
                "log in first",
                "welcome, c1",
                "7 is yours, c1",
                "not a number",
            ];
            // A job answers through a handle: in its own time, between the frames' own answers.
            let mut heard: Vec<String> = (0..7).map(|_| terminal.line()).collect();
            assert_eq!(heard[..4], expected[..4]);
            heard.sort();
            let mut all = [&expected[..], &["login NAME, or buy NUMBER"]].concat();
            all.sort_unstable();
            assert_eq!(heard, all);
        });
    }

    #[test]
    fn of_many_who_want_a_thing_one_has_it() {
        with_shops("one", |shop| {
            let open = |n| {
                let mut terminal = Terminal::open(shop.local_addrs()[0]);
                terminal.say(&format!("login c{n}\nbuy 3\n"));
                terminal
            };
            let mut terminals: Vec<Terminal> = (0..8).map(open).collect();
            let mut answers = Vec::new();
            for (n, terminal) in terminals.iter_mut().enumerate() {
                assert_eq!(terminal.line(), format!("welcome, c{n}"));
                answers.push(terminal.line());
            }
            let sold = answers.iter().filter(|answer| answer.starts_with("3 is yours")).count();
            let refused = answers.iter().filter(|answer| answer.ends_with("has bought 3")).count();
            assert_eq!((sold, refused), (1, 7), "{answers:?}");
        });
    }
}
