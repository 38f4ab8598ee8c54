//! The shaped link measured from outside. Needs root and `/dev/net/tun`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use super::*;

/// A listener at the servers' end.
fn listen(link: &Link) -> TcpListener {
    link.server().run(|| TcpListener::bind((SERVER, 0))).unwrap().unwrap()
}

fn connect(link: &Link, listener: &TcpListener) -> TcpStream {
    let address = listener.local_addr().unwrap();
    link.client().run(|| TcpStream::connect(address)).unwrap().unwrap()
}

#[test]
fn connecting_takes_a_round_trip() {
    let link = Link::new(Kind::Gigabit20).unwrap();
    let listener = listen(&link);
    let fastest = (0..5)
        .map(|_| {
            let address = listener.local_addr().unwrap();
            link.client()
                .run(|| {
                    let start = Instant::now();
                    TcpStream::connect(address).unwrap();
                    start.elapsed()
                })
                .unwrap()
        })
        .min()
        .unwrap();
    assert!(fastest >= Duration::from_millis(20), "{fastest:?}");
    assert!(fastest < Duration::from_millis(35), "{fastest:?}");
}

#[test]
fn streams_share_a_gigabit() {
    const TOTAL: usize = 96 << 20;
    /// In bytes a second: each payload of 1,448 bytes takes 1,538 on the wire.
    const GOODPUT: f64 = 125e6 * 1448.0 / 1538.0;

    for streams in [1, 8] {
        let link = Link::new(Kind::Gigabit20).unwrap();
        let listener = listen(&link);
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..streams {
                let mut client = connect(&link, &listener);
                let (mut server, _) = listener.accept().unwrap();
                scope.spawn(move || {
                    for _ in 0..(TOTAL / streams) >> 16 {
                        server.write_all(&[7; 1 << 16]).unwrap();
                    }
                });
                scope.spawn(move || std::io::copy(&mut client, &mut std::io::sink()).unwrap());
            }
        });
        let rate = TOTAL as f64 / start.elapsed().as_secs_f64();
        assert!(link.received().unwrap() >= TOTAL as u64);
        // Nothing may exceed what the wire carries. How near a stream comes depends on how busy the machine is;
        // but a tenth of it would be a mistake of ours.
        assert!(rate < GOODPUT, "{streams} streams: {rate:.0} bytes/s");
        assert!(rate > GOODPUT / 8.0, "{streams} streams: {rate:.0} bytes/s");
        eprintln!("{streams} streams: {:.1} MiB/s, relay {:?}", rate / 1048576.0, link.relay_time());
    }
}

#[test]
fn loopback_reaches_the_servers_address() {
    let link = Link::new(Kind::Loopback).unwrap();
    let listener = listen(&link);
    let mut client = connect(&link, &listener);
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(&[1; 100_000]).unwrap();
    drop(server);
    let mut read = Vec::new();
    client.read_to_end(&mut read).unwrap();
    assert_eq!(read.len(), 100_000);
    assert!(link.received().unwrap() >= 100_000);
}

#[test]
fn reads_the_counters_of_a_device() {
    let table = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 1 2 3\n link0:4567 8 9\n";
    assert_eq!(received_by(table, "link0"), Some(4567));
    assert_eq!(received_by(table, "lo"), Some(1));
    assert_eq!(received_by(table, "eth0"), None);
}
