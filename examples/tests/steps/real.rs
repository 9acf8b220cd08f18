//! Every program as a whole, on each engine of this system, with dummy clients.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use wharf_port::{Close, Config, EngineChoice, Op, Outcome, Token};

use crate::{
    dummy_clients::{self, Tally},
    step01, step02, step03, step04, step05, step06, step07,
};

const ANY: &str = "127.0.0.1:0";

type Start = fn(SocketAddr, &Config) -> std::io::Result<SocketAddr>;
const STEPS: [Start; 7] = [
    step01::start,
    step02::start,
    step03::start,
    step04::start,
    step05::start,
    step06::start,
    step07::start,
];

/// Those that the environment allows and that work here.
fn configs() -> Vec<Config> {
    let wanted = Config::from_env().unwrap().engine;
    let works = wharf_port::probe().into_iter().filter(|(_, found)| found.is_ok());
    let named = works.map(|(engine, _)| EngineChoice::Named(engine));
    let configs: Vec<_> = named
        .filter(|engine| wanted == EngineChoice::Auto || wanted == *engine)
        .map(|engine| Config { engine, ..Config::default() })
        .collect();
    assert!(!configs.is_empty(), "no engine works here");
    configs
}

#[test]
fn nothing_is_lost_where_one_line_is_on_its_way_at_a_time() {
    for config in configs() {
        for start in STEPS {
            let address = start(ANY.parse().unwrap(), &config).unwrap();
            let tally = dummy_clients::run(address, 8, 50, 1).unwrap();
            assert_eq!(tally, Tally { returned: 400, confused: 0 });
        }
    }
}

#[test]
fn nothing_is_lost_of_bursts_by_those_that_have_one_send_in_flight() {
    for config in configs() {
        let without_step_4 = STEPS[..3].iter().chain(&STEPS[4..]);
        for start in without_step_4 {
            let address = start(ANY.parse().unwrap(), &config).unwrap();
            let tally = dummy_clients::run(address, 4, 20, 100).unwrap();
            assert_eq!(tally, Tally { returned: 8000, confused: 0 });
        }
    }
}

/// Whether the server answers on this connection; one that is closed at once answers nothing.
fn is_served(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 3];
    stream.write_all(b"hi\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"hi\n"
}

/// A seat is free once its worker has seen the end.
fn is_served_at_last(address: SocketAddr) -> bool {
    (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(5));
        is_served(&mut TcpStream::connect(address).unwrap())
    })
}

#[test]
fn a_full_server_closes_who_comes_and_goes_on_accepting() {
    for config in configs() {
        for start in [step01::start as Start, step07::start] {
            let address = start(ANY.parse().unwrap(), &config).unwrap();
            let connect = || TcpStream::connect(address).unwrap();
            let mut seated: Vec<_> = (0..step01::CLIENTS_MAX).map(|_| connect()).collect();
            assert!(seated.iter_mut().all(is_served));
            assert!(!is_served(&mut connect()), "there is no seat");
            seated.pop();
            assert!(is_served_at_last(address), "a seat never came back");
            assert!(seated.iter_mut().all(is_served));
        }
    }
}

#[test]
fn step_7_survives_resets_before_the_accept_completes() {
    for config in configs() {
        let address = step07::start(ANY.parse().unwrap(), &config).unwrap();
        for _ in 0..200 {
            let socket = socket2::Socket::from(TcpStream::connect(address).unwrap());
            socket.set_linger(Some(Duration::ZERO)).unwrap(); // dropping it resets
        }
        assert!(is_served_at_last(address));
    }
}

/// Whether a socket is closed is known when the program runs, so no compiler refuses its name. The port
/// does, also when the next connection has the place of the closed one, which loses nothing by it.
#[test]
fn step_7_the_name_of_a_closed_socket_is_refused_and_not_the_next_ones() {
    for config in configs() {
        let mut port = wharf_port::open(&config).unwrap();
        let listener = TcpListener::bind(ANY).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || {
            let peer = TcpStream::connect(address).unwrap();
            (peer, listener.accept().unwrap().0)
        };
        let (_peer, stream) = connect();
        let closed = port.adopt(stream.into()).unwrap();
        port.close(closed, Close::Graceful);
        let (mut peer, stream) = connect();
        let next = port.adopt(stream.into()).unwrap();
        assert_ne!(Token::from(closed), Token::from(next));
        let receive = |socket| Op::Receive { socket, credit_bytes: 5 };
        let refused = catch_unwind(AssertUnwindSafe(|| port.submit(receive(closed), Token(1))));
        assert!(refused.is_err(), "it was taken for another's");
        port.submit(receive(next), Token(2));
        peer.write_all(b"hello").unwrap();
        let (mut got, mut done) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            port.wait(Some(Duration::from_millis(100)), &mut done).unwrap();
            for done in done.drain(..) {
                assert_eq!(done.token, Token(2));
                if let Outcome::Received(bytes) = done.outcome {
                    got.extend_from_slice(&bytes);
                }
            }
            if got.len() == 5 {
                break;
            }
        }
        assert_eq!(got, b"hello");
    }
}
