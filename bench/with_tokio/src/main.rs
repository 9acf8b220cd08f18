//! A tokio program that has sessions of wharf: its tasks ask another service, which is what they are good
//! at, and wharf has the clients.
//!
//! ```text
//! cargo run -p with-tokio          (in bench/)
//! nc 127.0.0.1 9001                (in another terminal; a line is asked for, news come each second)
//! ```
//!
//! From a handler to a task leads a bounded channel: a handler never waits, so that what the tasks cannot
//! take is refused there. From a task to a session leads a [`Handle`], which never waits either: `send`,
//! `publish` and `close` may be called in a task. `join`, `sessions`, `session`, `stats` and `set_limits`
//! wait for the workers, and belong into `spawn_blocking`.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use wharf::{
    Class, Context, Frame, Handle, Handler, SendError, Server, SessionId, Topic, framing::Lines,
};

/// Questions that wait for a task. One more is refused.
const QUESTIONS_WAITING_MAX: usize = 1024;
/// Questions that are with the other service at one time.
const ASKED_AT_ONCE_MAX: usize = 64;
/// How long the other service may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What all sessions subscribe to.
const NEWS: Topic = Topic(1);

/// What a client wants to know.
struct Question {
    from: SessionId,
    line: String,
}

/// The handler: one for each of wharf's workers.
struct Front {
    questions: mpsc::Sender<Question>,
}

impl Handler for Front {
    type Session = ();

    fn on_open(&mut self, cx: &mut Context<'_, ()>) -> wharf::Result {
        cx.subscribe(NEWS)?;
        Ok(())
    }

    fn on_frame(&mut self, cx: &mut Context<'_, ()>, line: Frame<'_>) -> wharf::Result {
        let line = String::from_utf8_lossy(line.body()).into_owned();
        // `blocking_send` would hold up all sessions of this worker.
        if self.questions.try_send(Question { from: cx.id(), line }).is_err() {
            cx.send(b"busy: try again")?;
        }
        Ok(())
    }
}

/// Takes questions, a few at a time, and sends what the other service answers.
async fn answer(handle: Handle, mut questions: mpsc::Receiver<Question>, service: SocketAddr) {
    let places = Arc::new(Semaphore::new(ASKED_AT_ONCE_MAX));
    while let Some(Question { from, line }) = questions.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let handle = handle.clone();
        tokio::spawn(async move {
            let asked = tokio::time::timeout(ANSWER_TIMEOUT, ask(service, &line)).await;
            let answer = match asked {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => format!("no answer: {error}"),
                Err(_) => "no answer in time".to_owned(),
            };
            match handle.send(from, answer.as_bytes()) {
                // Whoever has left meanwhile misses it; no other session can get it.
                Ok(()) | Err(SendError::Closed) => {}
                Err(error) => eprintln!("session {from}: {error}"),
            }
            drop(place);
        });
    }
}

async fn ask(service: SocketAddr, line: &str) -> io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(service).await?);
    stream.get_mut().write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    Ok(answer.trim_end().to_owned())
}

/// Tells everybody what comes through the channel, until it ends. Who does not read misses some.
async fn announce(handle: Handle, mut news: mpsc::Receiver<String>) {
    while let Some(line) = news.recv().await {
        if let Err(error) = handle.publish(NEWS, Class::DropOldest, 0, line.as_bytes()) {
            eprintln!("news: {error}");
        }
    }
}

/// The other service: answers each line in capitals. Here, so that the example is whole.
async fn serve_capitals(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                if stream.get_mut().write_all(line.to_uppercase().as_bytes()).await.is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
}

/// Everything that runs, until [`end`](Self::end).
struct Running {
    handle: Handle,
    news: mpsc::Sender<String>,
}

impl Running {
    /// In a runtime of tokio: wharf has threads of its own beside it.
    async fn start(address: impl ToSocketAddrs + std::fmt::Debug) -> wharf::Result<Self> {
        let failed =
            |error: io::Error| wharf::Error::Io { what: "the service".to_owned(), source: error };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let service = listener.local_addr().map_err(failed)?;
        tokio::spawn(serve_capitals(listener));

        let (questions, waiting) = mpsc::channel(QUESTIONS_WAITING_MAX);
        let front = move || Front { questions: questions.clone() };
        let handle = Server::builder().listen(address, Lines, front).workers(2).start()?;
        tokio::spawn(answer(handle.clone(), waiting, service));
        let (news, to_tell) = mpsc::channel(16);
        tokio::spawn(announce(handle.clone(), to_tell));
        Ok(Self { handle, news })
    }

    /// Drains, and waits on a thread where waiting is allowed.
    async fn end(self) -> wharf::Result<wharf::Report> {
        self.handle.drain(Duration::from_secs(10));
        let joined = tokio::task::spawn_blocking(move || self.handle.join()).await;
        joined.expect("joining does not panic")
    }
}

fn main() -> wharf::Result {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let running = Running::start("127.0.0.1:9001").await?;
        let news = running.news.clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(1));
            for second in 0_u64.. {
                every.tick().await;
                if news.send(format!("news: {second} s")).await.is_err() {
                    return;
                }
            }
        });
        tokio::signal::ctrl_c().await.expect("signals can be had");
        running.end().await?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpStream;

    use super::*;

    struct Client(BufReader<TcpStream>);

    impl Client {
        fn connect(running: &Running) -> Self {
            let stream = TcpStream::connect(running.handle.local_addrs()[0]).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            Self(BufReader::new(stream))
        }

        fn say(&mut self, line: &str) {
            self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        }

        fn hear(&mut self) -> String {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        }
    }

    /// Runs a test that may wait beside the runtime's own threads.
    fn with_tasks(test: impl FnOnce(Running) -> Running + Send + 'static) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let running = Running::start("127.0.0.1:0").await.unwrap();
            let running = tokio::task::spawn_blocking(move || test(running)).await.unwrap();
            assert!(running.end().await.unwrap().leftover.is_nothing());
        });
    }

    #[test]
    fn tasks_answer_each_session_what_it_asked() {
        with_tasks(|running| {
            let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(&running)).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                client.say(&format!("question {number}"));
            }
            for (number, client) in clients.iter_mut().enumerate() {
                assert_eq!(client.hear(), format!("QUESTION {number}"));
            }
            running
        });
    }

    #[test]
    fn a_task_reaches_all_sessions_and_one_that_has_left_harms_nobody() {
        with_tasks(|running| {
            let mut stays = Client::connect(&running);
            let mut leaves = Client::connect(&running);
            // Both have subscribed once they are answered.
            for client in [&mut stays, &mut leaves] {
                client.say("hello");
                assert_eq!(client.hear(), "HELLO");
            }
            running.news.blocking_send("the sun shines".to_owned()).unwrap();
            assert_eq!([stays.hear(), leaves.hear()], ["the sun shines", "the sun shines"]);
            leaves.say("an answer for nobody");
            drop(leaves);
            running.news.blocking_send("it rains".to_owned()).unwrap();
            assert_eq!(stays.hear(), "it rains");
            running
        });
    }
}
