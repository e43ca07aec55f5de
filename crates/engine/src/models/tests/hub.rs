//! Downloads from a hub that is a few lines of HTTP on loopback.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use sha2::{Digest, Sha256};

use super::*;
use crate::models::{hub::fetch, reference::HubReference};

/// What the hub does.
#[derive(Clone)]
struct Hub {
    content: Arc<Vec<u8>>,
    sha256: String,
    /// Bytes after which a connection is cut.
    cut_at: Option<usize>,
    honours_range: bool,
    /// Sends the file from another place, as the hub's storage does.
    redirects: bool,
    /// Status and headers in place of the file.
    refuses: Option<&'static str>,
    /// First bytes of the ranges that were asked for.
    ranges: Arc<Mutex<Vec<usize>>>,
}

impl Hub {
    fn new(content: Vec<u8>) -> Self {
        let sha256 = hex::encode(Sha256::digest(&content));
        Self {
            content: Arc::new(content),
            sha256,
            cut_at: None,
            honours_range: true,
            redirects: false,
            refuses: None,
            ranges: Arc::default(),
        }
    }

    fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        let hub = self.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let hub = hub.clone();
                std::thread::spawn(move || hub.answer(connection.expect("accepts")));
            }
        });
        format!("http://{address}")
    }

    fn answer(&self, connection: TcpStream) {
        let mut reader = BufReader::new(&connection);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim().to_ascii_lowercase());
        }
        let header = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut body = vec![0; header("content-length:").map_or(0, |n| n.parse().expect("a number"))];
        reader.read_exact(&mut body).expect("reads the body");
        let mut out = &connection;
        if let Some(refusal) = self.refuses {
            let _ = write!(out, "HTTP/1.1 {refusal}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            return;
        }
        if lines[0].starts_with("post /api/models/owner/repo/paths-info/main") {
            let entry = format!(
                "[{{\"type\":\"file\",\"oid\":\"0123456789abcdef0123\",\"size\":{},\"path\":\"dir/x.gguf\",\
                 \"lfs\":{{\"sha256\":\"{}\"}}}}]",
                self.content.len(),
                self.sha256
            );
            let _ = write!(
                out,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{entry}",
                entry.len()
            );
            return;
        }
        let is_storage = lines[0].contains(" /storage/x ");
        if self.redirects && !is_storage && lines[0].contains("/resolve/main/dir/x.gguf") {
            // Headers of the real hub for a file in its large storage.
            let _ = write!(
                out,
                "HTTP/1.1 302 Found\r\nlocation: /storage/x\r\nx-repo-commit: 0123456789012345678901234567890123456789\r\n\
                 x-linked-etag: \"{}\"\r\nx-linked-size: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                self.sha256,
                self.content.len()
            );
            return;
        }
        if !is_storage && !lines[0].contains("/owner/repo/resolve/main/dir/x.gguf") {
            let _ = write!(out, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            return;
        }
        let range = header("range: bytes=").filter(|_| self.honours_range);
        let first: usize =
            range.map_or(0, |range| range.split('-').next().expect("a start").parse().expect("a number"));
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        let content = &self.content[first..];
        let _ = write!(
            out,
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"x\"\r\nx-repo-commit: abc\r\nconnection: close\r\n\r\n",
            content.len()
        );
        if lines[0].starts_with("get") {
            self.ranges.lock().expect("not poisoned").push(first);
            let _ = out.write_all(&content[..content.len().min(self.cut_at.unwrap_or(usize::MAX))]);
        }
    }
}

fn reference() -> HubReference {
    let ModelReference::Hub(reference) = ModelReference::parse("hf:owner/repo:dir/x.gguf").expect("valid") else {
        panic!("a hub reference")
    };
    reference
}

#[test]
fn a_hub_that_is_not_there_is_said_to_be_unreachable() {
    let dir = directory();
    let closed = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("has an address");
    let error = fetch(&reference(), Some(&format!("http://{closed}")), dir.path(), &()).expect_err("unreachable");
    assert!(matches!(error, ModelError::HubUnreachable { .. }), "{error:?}");
}

#[test]
fn a_file_that_the_hub_has_not_is_said_so() {
    let dir = directory();
    let endpoint = Hub::new(gguf()).start();
    let other = HubReference { file: "other.gguf".into(), ..reference() };
    let error = fetch(&other, Some(&endpoint), dir.path(), &()).expect_err("no such file");
    assert!(error.to_string().contains("no such file"), "{error}");
    let other = HubReference { repo: "other".into(), ..reference() };
    assert!(matches!(fetch(&other, Some(&endpoint), dir.path(), &()), Err(ModelError::HubRefused { .. })));
}

#[test]
fn content_that_is_not_what_the_hub_announced_is_not_kept() {
    let dir = directory();
    let hub = Hub { sha256: "0".repeat(64), ..Hub::new(gguf()) };
    let error = fetch(&reference(), Some(&hub.start()), dir.path(), &()).expect_err("differs");
    assert!(matches!(error, ModelError::DigestMismatch { .. }), "{error:?}");
    let left: Vec<_> = fs::read_dir(dir.path().join("models/owner/repo/dir")).expect("is there").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_download_is_resumed_until_it_is_whole_and_then_found_without_the_hub() {
    let dir = directory();
    let hub = Hub { cut_at: Some(100), ..Hub::new(gguf()) };
    let size = hub.content.len();
    let shown = Shown::default();
    let files = fetch(&reference(), Some(&hub.start()), dir.path(), &shown).expect("downloads");
    assert_eq!(fs::read(files.first()).expect("reads"), *hub.content);
    let expected: Vec<usize> = (0..size).step_by(100).collect();
    assert_eq!(*hub.ranges.lock().expect("not poisoned"), expected);
    assert_eq!(shown.take(), 2 * size as u64, "once for the download, once for its digest");
    let again = resolve("hf:owner/repo:dir/x.gguf", dir.path(), &()).expect("without the hub");
    assert_eq!(again, files);
}

#[test]
fn a_server_that_ignores_ranges_is_begun_again() {
    let dir = directory();
    let part = dir.path().join("models/owner/repo/dir/x.gguf.0123456789abcdef.part");
    fs::create_dir_all(part.parent().expect("has a parent")).expect("creates");
    fs::write(&part, b"something else").expect("writes");
    let hub = Hub { honours_range: false, ..Hub::new(gguf()) };
    let files = fetch(&reference(), Some(&hub.start()), dir.path(), &()).expect("downloads");
    assert_eq!(fs::read(files.first()).expect("reads"), *hub.content);
}

#[test]
fn a_file_in_the_hubs_storage_is_followed_there_and_resumed_there() {
    let dir = directory();
    let hub = Hub { redirects: true, cut_at: Some(150), ..Hub::new(gguf()) };
    let files = fetch(&reference(), Some(&hub.start()), dir.path(), &()).expect("downloads");
    assert_eq!(fs::read(files.first()).expect("reads"), *hub.content);
    let expected: Vec<usize> = (0..hub.content.len()).step_by(150).collect();
    assert_eq!(*hub.ranges.lock().expect("not poisoned"), expected, "the range survives the redirect");
}

#[test]
fn a_hub_that_wants_to_know_who_asks_is_told_of_as_such() {
    let check = |refuses, expected: &str| {
        let dir = directory();
        let hub = Hub { refuses: Some(refuses), ..Hub::new(gguf()) };
        let error = fetch(&reference(), Some(&hub.start()), dir.path(), &()).expect_err(refuses);
        assert!(error.to_string().contains(expected), "{refuses}: {error}");
    };
    check("401 Unauthorized", "HF_TOKEN");
    check("403 Forbidden\r\nx-error-code: GatedRepo", "HF_TOKEN");
    check("404 Not Found\r\nx-error-code: RepoNotFound", "hf:owner/repo");
    check("500 Internal Server Error", "hf:owner/repo");
}
