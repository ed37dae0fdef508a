//! The page's files over the wire, as any client gets them. (What the page does: tests/browser.)

use std::io::Write;
use std::process::{Command, Stdio};

use support::{Server, documents, request};

/// Content types, Content-Security-Policy, and ETag with 304 for `If-None-Match`.
#[test]
fn the_page_is_served_with_its_types_and_validators() {
    let server = Server::start(&[]);
    for (path, content_type) in [
        ("/index.html", "text/html; charset=utf-8"),
        ("/upload.js", "text/javascript; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
    ] {
        let reply = request(server.address, "GET", path, &[], b"");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(content_type)));
        let file = format!("{}/static{path}", env!("CARGO_MANIFEST_DIR"));
        assert!(reply.body == std::fs::read(file).unwrap(), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        let expected = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
            connect-src 'self' https://examplebucket.oss-cn-hangzhou.aliyuncs.com; \
            base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        assert_eq!(policy, expected);
        let etag = reply.header("etag").unwrap().to_owned();
        for held in [etag.clone(), format!("\"x\", W/{etag}")] {
            let again = request(server.address, "GET", path, &[("If-None-Match", &held)], b"");
            assert_eq!((again.status, again.body.len()), (304, 0));
            server.wait_log(&format!("\"{path}\" 304")); // the application's line, or the cache's
        }
        let other = request(server.address, "GET", path, &[("If-None-Match", "\"x\"")], b"");
        assert_eq!(other.status, 200);
    }
    let off = Server::start(&[("CLIENT_PAGE", "off")]);
    assert_eq!(request(off.address, "GET", "/index.html", &[], b"").status, 404);
}

/// What crosses the wire when a browser opens the page: gzipped, at most 20 KB in all.
#[test]
fn the_page_stays_small() {
    let server = Server::start(&[]);
    let gzip = [("Accept-Encoding", "gzip, deflate, br, zstd")];
    let mut total = 0;
    for name in ["index.html", "style.css", "words.js", "page.js", "upload.js", "upload.mjs"] {
        let reply = request(server.address, "GET", &format!("/{name}"), &gzip, b"");
        assert_eq!(reply.header("content-encoding"), Some("gzip"), "{name}");
        println!("{name}: {} bytes", reply.body.len());
        total += reply.body.len();
    }
    println!("all: {total} bytes");
    assert!(total <= 20 * 1024, "the page has {total} bytes, gzipped");
}

/// By what a client accepts; each form with a validator of its own, also out of the micro-cache.
#[test]
fn the_page_is_gzipped_for_those_who_accept_it() {
    let server = Server::start(&[]);
    let ask = |headers: &[(&str, &str)]| request(server.address, "GET", "/page.js", headers, b"");
    let file = std::fs::read(documents::top().join("static/page.js")).unwrap();
    let plain = ask(&[]);
    assert!(plain.body == file && plain.header("content-encoding").is_none());
    let gzipped = ask(&[("Accept-Encoding", "gzip")]);
    let mut gunzip = Command::new("gzip");
    gunzip.arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut gunzip = gunzip.spawn().unwrap();
    gunzip.stdin.take().unwrap().write_all(&gzipped.body).unwrap();
    assert!(gunzip.wait_with_output().unwrap().stdout == file);
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));

    for (accepted, is_gzipped) in [
        ("gzip, deflate, br, zstd", true),
        ("br;q=1.0, GZIP;q=0.5", true),
        ("deflate,gzip ; q=1", true),
        ("gzip;q=0", false),
        ("gzip; q=0.000, br", false),
        ("deflate, br", false),
        ("gzipped", false),
        ("identity", false),
        ("*", false),
        ("", false),
    ] {
        // Twice, and the other form between, within a second.
        for _ in 0..2 {
            let reply = ask(&[("Accept-Encoding", accepted)]);
            assert_eq!(reply.header("content-encoding").is_some(), is_gzipped, "{accepted}");
            assert_eq!(reply.header("vary"), Some("Accept-Encoding"));
            let (right, other) = if is_gzipped { (&gzipped, &plain) } else { (&plain, &gzipped) };
            assert!(reply.body == right.body, "{accepted}");
            for (held, status) in [(right, 304), (other, 200)] {
                let held = held.header("etag").unwrap();
                let again = ask(&[("Accept-Encoding", accepted), ("If-None-Match", held)]);
                assert_eq!(again.status, status, "{accepted}");
                assert_eq!(again.header("vary"), Some("Accept-Encoding"));
            }
        }
    }
}
