//! Sieges by the clients of a reverse proxy (Caddy, Apache), which all have the proxy's address.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::proxy::{self, Proxy};

use crate::sieges::{BODY, LOCAL, besieged, is_served, served, undisturbed, waited};
use crate::*;

/// Sieges behind a reverse proxy, Caddy and Apache as README has them: they have no limit per
/// client, and all clients come from the proxy. Apache has 25 threads here, so it can pass on the
/// bodies of 20 clients at a time.
#[test]
fn many_clients_behind_one_proxy() {
    let _alone = alone();
    let head = |line: &str, fields: &str| {
        format!("{line} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", proxy::HOST).into_bytes()
    };
    // Apache passes on what it has of a body once it has 16 KiB.
    let body = [b'a'; 20_000];
    let (first, rest) = body.split_at(body.len() - 100);
    let first = [&*head("POST /upload/callback", "Content-Length: 20000\r\n"), first].concat();
    let in_two_parts = vec![first.clone(), rest.to_vec()];
    let slow = [first].into_iter().chain(rest.chunks(1).map(<[u8]>::to_vec)).collect::<Vec<_>>();
    let health = vec![head("GET /upload/healthz", "")];
    type Start = fn(&Path, &str) -> Proxy;
    let (caddy, apache): (Start, Start) = (Proxy::plain_caddy, Proxy::plain_apache);
    served([
        ("Caddy, slow bodies", besiege(caddy, "512", 1000, 100, &slow)),
        ("Caddy, bodies in two parts", besiege(caddy, "16", 32, 14, &in_two_parts)),
        ("Caddy, health checks", besiege(caddy, "16", 64, 3, &health)),
        ("Apache, slow bodies", besiege(apache, "16", 20, 100, &slow)),
        ("Apache, bodies in two parts", besiege(apache, "16", 20, 14, &in_two_parts)),
    ]);
}

/// A siege of a server behind a proxy by one client of the proxy, and what became of another's
/// callbacks.
fn besiege(
    start: fn(&Path, &str) -> Proxy,
    max_connections: &str,
    connections: usize,
    period: u64,
    message: &[Vec<u8>],
) -> Series {
    undisturbed(is_served, || {
        let site = Site::new(&[("UPLOAD_LOG", ""), ("PUBLIC_PATH_PREFIX", "/upload")]);
        let socket = site.folder.path("http.sock");
        let mut command = Command::new(binary());
        command.arg(format!("unix:{socket}"));
        let mut server =
            Server::spawn(command, &site.vars(&[("MAX_CONNECTIONS", max_connections)]));
        // Apache's process gives up root.
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
        let proxy = start(&site.folder.0, &socket);
        let address = proxy.address(0);
        let siege = Siege {
            source: LOCAL[0].parse().unwrap(),
            address,
            connections,
            period: Duration::from_millis(period),
            message: message.to_vec(),
        };
        let callback = site.bucket.callback_request("/upload/callback", proxy::HOST, BODY, FORM);
        let other = "127.0.0.77".parse().unwrap();
        let before = waited(&server);
        let (counts, series) =
            besieged(&[siege], connections, || callbacks(other, address, &callback));
        let report = format!("{max_connections} places behind a proxy: {series}; {counts}");
        assert_survived(server.is_running(), server.status("VmHWM"), &report);
        (series, waited(&server) - before)
    })
}
