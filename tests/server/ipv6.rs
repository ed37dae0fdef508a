//! IPv6 clients, in a network namespace: one listener for both families, one source per network
//! (/64), and IPv4 clients under their own name.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;

use support::hostile::{connect_from, is_closed};
use support::{Server, binary, namespace, request};

const PLACES: usize = 8;
/// A quarter of them.
const SHARE: usize = 2;

/// A server for both families.
fn server() -> Server {
    let mut command = Command::new(binary());
    command.args(["::", "0"]);
    Server::spawn(command, &[("MAX_CONNECTIONS", &PLACES.to_string())])
}

/// Client number `host` of a network.
fn client(network: u16, host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into()
}

/// Asks once from an address, so that the server has accepted it and all before it, and stays.
fn stay(source: IpAddr, port: u16) -> TcpStream {
    use std::io::{BufReader, Write};
    let ip: IpAddr = if source.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { source };
    let mut stream = connect_from(source, SocketAddr::new(ip, port)).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let reply = support::read_reply(&mut BufReader::new(&stream), false);
    assert_eq!(reply.map(|reply| reply.status), Some(200), "{source}");
    stream
}

/// ipv6: an IPv6 customer has a whole network, so all of a /64 share the quota of one source, and
/// others keep theirs.
#[test]
fn one_network_is_one_source() {
    namespace::run("ipv6::one_network_is_one_source", || {
        let server = server();
        let port = server.address.port();
        let others: Vec<TcpStream> =
            (1..=2).map(|network| stay(client(network, 1), port)).collect();
        let network: Vec<TcpStream> = (1..=5).map(|host| stay(client(3, host), port)).collect();
        // One network beside it, which differs in the last bit of the /64, counts for itself.
        let next = stay(client(4, 1), port);
        let ended = |all: &[TcpStream]| all.iter().filter(|stream| is_closed(stream)).count();
        assert_eq!(ended(&network), 5 - SHARE, "the quota of a network");
        assert_eq!((ended(&others), ended(&[next])), (0, 0), "others keep their places");
    });
}

/// ipv6: on a listener for both families an IPv4 client comes as `::ffff:a.b.c.d`. It has its IPv4
/// name in the log, and counts as an IPv4 source, alone, not as one of that one network.
#[test]
fn an_ipv4_client_of_both_families_is_itself() {
    namespace::run("ipv6::an_ipv4_client_of_both_families_is_itself", || {
        let server = server();
        let port = server.address.port();
        let all: Vec<TcpStream> =
            (1..=6).map(|number| stay(namespace::source(number), port)).collect();
        assert!(!all.iter().any(is_closed), "they share no quota");
        let address = SocketAddr::new(namespace::source(1), port);
        assert_eq!(request(address, "GET", "/", &[], b"").status, 200);
        server.wait_log(" 10.77.0.1 GET \"/\" 200");
        let v6 = SocketAddr::new(client(1, 1), port);
        assert_eq!(request(v6, "GET", "/", &[], b"").status, 200);
        server.wait_log(" 2001:db8:0:1::1 GET \"/\" 200");
    });
}
