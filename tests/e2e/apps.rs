//! Sources of the apps that the tests deploy.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// A small web app: `/` returns its text and GREETING, `/env/NAME` a variable, `/slow/<seconds>` takes so
/// long, `/eat/<mebibytes>` allocates memory. It exits immediately on SIGTERM, as Python does.
const WEB: &str = r#"
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        parts = self.path.split("/")
        text = "TEXT " + os.environ.get("GREETING", "-")
        if parts[1] == "env":
            text = os.environ.get(parts[2], "-")
        if parts[1] == "slow":
            time.sleep(float(parts[2]))
        if parts[1] == "eat":
            text = str(len(bytearray(b"x") * (int(parts[2]) << 20)))
        if parts[1] == "say":
            print(parts[2], flush=True)
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
time.sleep(float(os.environ.get("STARTS_IN", "STARTS")))
print("listening", flush=True)
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// The smallest app, which starts fast and returns its text, GREETING and STORE_URL.
const TINY: &str = r#"
import os, socket
words = ["TEXT", os.environ.get("GREETING", "-"), os.environ.get("STORE_URL", "-")]
body = " ".join(words).encode()
head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=16)
while True:
    caller, _ = server.accept()
    caller.settimeout(2)
    try:
        caller.recv(65536)
        caller.sendall(head + body)
    except OSError:
        pass
    caller.close()
"#;

/// The files of an app, to be packed.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppSource(Vec<(String, Vec<u8>)>);

impl AppSource {
    /// Returns the web app that serves a text.
    pub(crate) fn web(text: &str) -> Self {
        Self::slow_to_start(text, "0")
    }

    /// Returns the same app, which listens only after some seconds.
    pub(crate) fn slow_to_start(text: &str, seconds: &str) -> Self {
        let program = WEB
            .replace("TEXT", text)
            .replace("STARTS\"", &format!("{seconds}\""));
        let check = "healthcheck:\n  path: /\n  interval_seconds: 1\n  timeout_seconds: 5\n";
        Self::default()
            .with("Procfile", "web: /usr/bin/python3 app.py\n")
            .with("app.py", &program)
            .with("tsuru.yaml", check)
    }

    /// Returns the smallest web app.
    pub(crate) fn tiny(text: &str) -> Self {
        Self::default()
            .with("Procfile", "web: /usr/bin/python3 -I -S app.py\n")
            .with("app.py", &TINY.replace("TEXT", text))
    }

    /// Adds or replaces a file.
    pub(crate) fn with(mut self, name: &str, content: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), content.as_bytes().to_vec()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self
    }

    /// Adds build hooks, one command each, beside the usual health check.
    pub(crate) fn hooks(self, hooks: &[&str]) -> Self {
        let mut yaml = "healthcheck:\n  path: /\n  interval_seconds: 1\nhooks:\n  build:\n".to_owned();
        for hook in hooks {
            yaml.push_str(&format!("    - {hook}\n"));
        }
        self.with("tsuru.yaml", &yaml)
    }

    /// Writes the files into a folder.
    pub(crate) fn write_to(&self, folder: &Path) {
        for (name, content) in &self.0 {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }

    /// Packs the files into a `.tar.gz`.
    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // As bytes, to allow hostile names too.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, content.as_slice()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }
}

/// Compresses bytes.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}
