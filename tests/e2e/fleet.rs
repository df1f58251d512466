//! Several replicas on one Postgres, and the nginx in front of them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::test_instance::TestInstance;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Reserves a port that stays free while a replica is restarted: below the ephemeral range.
pub(crate) fn reserve_port() -> u16 {
    let base = 15_000 + u16::try_from(std::process::id() % 15_000).unwrap();
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An nginx in front of all replicas, stopped when dropped.
pub(crate) struct NginxBalancer {
    child: Child,
    pub(crate) api: String,
    pub(crate) router: String,
}

impl NginxBalancer {
    /// `again` sets when nginx retries on another replica: `error timeout` is its default, which repeats a
    /// PUT or DELETE that may have been executed; `off` disables it.
    pub(crate) fn start(folder: &Path, apis: &[u16], routers: &[u16], again: &str) -> Self {
        let (api, router) = (reserve_port(), reserve_port());
        // A restarting replica is retried immediately: otherwise three restarts in ten seconds leave none.
        let servers = |ports: &[u16]| -> String {
            let lines = ports
                .iter()
                .map(|port| format!("server 127.0.0.1:{port} max_fails=0;"));
            lines.collect()
        };
        let here = folder.display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {here}/nginx-{name};\n"))
            .concat();
        let server = |port: u16, name: &str| {
            format!(
                "server {{ listen 127.0.0.1:{port}; location / {{
                     proxy_pass http://{name}; proxy_set_header Host $http_host; proxy_next_upstream {again};
                     proxy_http_version 1.1; proxy_set_header Connection '';
                     proxy_buffering off; proxy_request_buffering off; client_max_body_size 0;
                 }} }}\n"
            )
        };
        let text = format!(
            "daemon off; master_process off; pid {here}/nginx.pid; error_log stderr;
             events {{ worker_connections 1024; }}
             http {{ access_log off;
             {paths}
             upstream api {{ {} }}
             upstream router {{ {} }}
             {}{} }}\n",
            servers(apis),
            servers(routers),
            server(api, "api"),
            server(router, "router"),
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).unwrap();
        let log = fs::File::create(folder.join("nginx.log")).unwrap();
        let child = Command::new("/usr/sbin/nginx")
            .args(["-e", "stderr", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the Debian package nginx-light");
        let url = |port| format!("http://127.0.0.1:{port}");
        Self {
            child,
            api: url(api),
            router: url(router),
        }
    }
}

impl Drop for NginxBalancer {
    fn drop(&mut self) {
        // Both fail if it has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One replica with its ports.
pub(crate) struct TanchoReplica {
    pub(crate) tancho: TestInstance,
    pub(crate) api: u16,
    pub(crate) router: u16,
}

impl TanchoReplica {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        let mut tancho = TestInstance::new_empty();
        tancho.set("DATABASE_URL", url);
        tancho.set("TANCHO_SECRETS_KEYS", key);
        tancho.set("TANCHO_ROUTER_PUBLIC_PORT", "80");
        tancho.set("TANCHO_SERVICES_ALLOW_PRIVATE_ADDRESSES", "yes");
        let (api, router) = (reserve_port(), reserve_port());
        Self { tancho, api, router }
    }

    pub(crate) fn serve(&mut self) {
        let (api, router) = (
            format!("127.0.0.1:{}", self.api),
            format!("127.0.0.1:{}", self.router),
        );
        let program = self
            .tancho
            .try_start(&["serve", "--api", &api, "--router", &router]);
        self.tancho.program = Some(program.unwrap());
    }
}
