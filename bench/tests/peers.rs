//! Every peer is a correct echo server: what they are compared for would mean nothing otherwise.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

const PEERS: &[&str] = &[
    "floor",
    "mio",
    "tokio",
    "tokio-multi",
    "compio",
    "monoio",
    #[cfg(feature = "glommio")]
    "glommio",
];
/// More than the floor's buffers and all socket buffers between hold.
const LARGE: usize = 24 << 20;

struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(peer: &str) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wharf-bench"))
            .args(["peer", peer, "127.0.0.1:0", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("ready ").unwrap().parse().unwrap();
        Server { child, addr }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|index| ((index + seed) * 31 % 251) as u8).collect()
}

fn one_echo(stream: &mut TcpStream, seed: usize) {
    let message = bytes(100, seed);
    stream.write_all(&message).unwrap();
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, message);
}

#[test]
fn a_reader_that_is_late_gets_every_byte_and_the_end() {
    for peer in PEERS {
        let server = Server::start(peer);
        let stream = server.connect();
        let message = bytes(LARGE, 0);
        let mut reader = stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = &stream;
                writer.write_all(&message).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            // Reads in small pieces, so that the server's sends are short again and again.
            let mut answer = Vec::new();
            let mut piece = vec![0; 10_000];
            loop {
                let read = reader.read(&mut piece).unwrap();
                if read == 0 {
                    break;
                }
                answer.extend_from_slice(&piece[..read]);
            }
            assert!(answer == message, "{peer}: {} of {LARGE} bytes", answer.len());
        });
    }
}

#[test]
fn connections_go_on_after_buffers_ran_out() {
    for peer in PEERS {
        let server = Server::start(peer);
        let mut others: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
        // One connection that does not read takes what it can get; then it is reset.
        let mut greedy = server.connect();
        greedy.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let filler = bytes(1 << 20, 1);
        while greedy.write(&filler).is_ok() {}
        // Asked while no buffer is left, answered once there are some again.
        let asked = bytes(100, 7);
        for stream in &mut others {
            stream.write_all(&asked).unwrap();
        }
        SockRef::from(&greedy).set_linger(Some(Duration::ZERO)).unwrap();
        drop(greedy);
        for stream in &mut others {
            let mut answer = vec![0; asked.len()];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, asked, "{peer}");
        }
        for round in 0..3 {
            for (index, stream) in others.iter_mut().enumerate() {
                one_echo(stream, index + round);
            }
        }
    }
}

#[test]
fn closed_connections_make_room_for_new_ones() {
    for peer in PEERS {
        let server = Server::start(peer);
        let descriptors = || {
            let path = format!("/proc/{}/fd", server.child.id());
            std::fs::read_dir(path).unwrap().count()
        };
        let mut first = server.connect();
        one_echo(&mut first, 0);
        let before = descriptors();
        for round in 0..50 {
            let mut streams: Vec<TcpStream> = (0..10).map(|_| server.connect()).collect();
            for (index, stream) in streams.iter_mut().enumerate() {
                one_echo(stream, index + round);
            }
            for mut stream in streams {
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "{peer}");
            }
        }
        // The end is seen before the descriptor is closed; another echo comes after both.
        one_echo(&mut first, 1);
        assert_eq!(descriptors(), before, "{peer}");
    }
}
