//! Commands and shells in units that are processes of this machine.

use super::*;

/// True while a process is alive.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

async fn wait_until_dead(pid: &str) {
    wait_for(&format!("process {pid} has ended"), async || {
        (!is_alive(pid)).then_some(())
    })
    .await;
}

/// Waits for the line `pid=N`; returns N.
async fn read_pid(client: &mut ShellClient) -> String {
    client.read_until("\npid=").await;
    let pid = client.read_until("=").await;
    pid.trim_end_matches('=').to_owned()
}

#[tokio::test]
async fn run_prints_the_output_of_the_command_as_it_is() {
    let fixture = ExecFixture::with_local_unit().await;
    let command =
        "cat Procfile; echo '{\"a\":1}'; echo e >&2; printf '\\033[31mred\\033[0m'; echo $API_KEY; exit 4";
    let (output, failure) = fixture.run(&[("command", command)]).await;
    assert_eq!(
        output,
        "web: /usr/bin/python3 -m http.server $PORT\n{\"a\":1}\ne\n\u{1b}[31mred\u{1b}[0mk-12345\n"
    );
    assert_eq!(failure.as_deref(), Some("exit status 4"));
    // Its secrets go to the caller alone.
    let event = fixture.ended_event("app.run").await;
    let path = format!("/1.1/events/{}", event["UniqueID"].as_str().unwrap());
    let whole = fixture.tancho.read_json(&fixture.root, &path).await.to_string();
    assert!(
        whole.contains("cat Procfile") && !whole.contains("k-12345"),
        "{whole}"
    );
    let logs = fixture
        .tancho
        .read_json(&fixture.ana, "/1.0/apps/shop/log?lines=1000")
        .await
        .to_string();
    assert!(!logs.contains("k-12345"), "{logs}");
    let (output, failure) = fixture
        .run(&[
            (
                "command",
                "echo $TSURU_PROCESSNAME-$TSURU_APPVERSION; pwd; echo x > $TMPDIR/x",
            ),
            ("isolated", "true"),
        ])
        .await;
    assert!(
        output.starts_with("web-1\n/") && failure.is_none(),
        "{output} {failure:?}"
    );
    fixture.tancho.stop_with_units().await;
}

#[tokio::test]
async fn output_faster_than_the_client_reads_is_complete() {
    let fixture = ExecFixture::with_local_unit().await;
    let (output, failure) = fixture.run(&[("command", "seq 1 400000")]).await;
    assert_eq!(failure, None);
    assert_eq!(output.lines().count(), 400_000);
    assert!(output.ends_with("\n399999\n400000\n"));
    fixture.tancho.stop_with_units().await;
}

#[tokio::test]
async fn shell_is_a_terminal_of_the_requested_size() {
    let fixture = ExecFixture::with_local_unit().await;
    let mut client = fixture
        .open_shell(&fixture.ana, "width=90&height=30&term=vt220")
        .await;
    client.type_text("stty size; echo $TERM-$API_KEY\n").await;
    let text = client.read_until("vt220-k-12345").await;
    assert!(text.contains("30 90"), "{text}");
    let size = serde_json::json!({ "width": 100, "height": 40 }).to_string();
    client
        .socket
        .send(Message::binary(size.into_bytes()))
        .await
        .unwrap();
    for bad in ["{}", "{\"width\":0,\"height\":0}", "\u{1}"] {
        client
            .socket
            .send(Message::binary(bad.as_bytes().to_vec()))
            .await
            .unwrap();
    }
    client.type_text("stty size\n").await;
    client.read_until("40 100").await;
    client.type_text("exit 3\n").await;
    let (_, code) = client.read_to_close().await;
    assert_eq!(code, 1000);
    let event = fixture.ended_event("app.run.shell").await;
    assert_eq!(event["Error"], "");
    assert!(!event.to_string().contains("k-12345"), "{event}");
    fixture.tancho.stop_with_units().await;
}

#[tokio::test]
async fn interrupt_key_reaches_the_program_in_the_foreground() {
    let fixture = ExecFixture::with_local_unit().await;
    let mut client = fixture.open_shell(&fixture.ana, "").await;
    client.type_text("echo re''ady; cat\n").await;
    client.read_until("ready").await;
    client.type_text("line\n").await;
    client.read_until("line\r\nline").await;
    client.type_text("\u{3}").await;
    client.read_until("^C").await;
    client.type_text("echo status-$?\n").await;
    client.read_until("status-130").await;
    client.type_text("exit\n").await;
    client.read_to_close().await;
    fixture.tancho.stop_with_units().await;
}

#[tokio::test]
async fn processes_of_a_shell_end_when_the_client_is_killed_or_the_unit_is_removed() {
    let fixture = ExecFixture::with_local_unit().await;
    for query in ["", "isolated=true"] {
        let mut client = fixture.open_shell(&fixture.ana, query).await;
        client
            .type_text("trap '' HUP TERM; sleep 1000 & echo pid=$!=\n")
            .await;
        let pid = read_pid(&mut client).await;
        assert!(is_alive(&pid));
        // Without a closing handshake, as when the client is killed.
        drop(client);
        wait_until_dead(&pid).await;
        fixture.wait_until_no_session().await;
    }
    let mut client = fixture.open_shell(&fixture.ana, "").await;
    client.type_text("sleep 1000 & echo pid=$!=\n").await;
    let pid = read_pid(&mut client).await;
    fixture.send(Method::POST, "/1.0/apps/shop/stop", "").await;
    client.read_to_close().await;
    wait_until_dead(&pid).await;
    let units = &fixture.tancho.running.core.data_dir.units_dir();
    let left = std::fs::read_dir(units).unwrap().flatten();
    let left: Vec<_> = left
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("shop"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    fixture.tancho.stop_with_units().await;
}

#[tokio::test]
async fn isolated_shell_ends_when_the_app_is_removed() {
    let fixture = ExecFixture::with_local_unit().await;
    let mut client = fixture.open_shell(&fixture.ana, "isolated=true").await;
    client.type_text("sleep 1000 & echo pid=$!=\n").await;
    let pid = read_pid(&mut client).await;
    fixture.send(Method::DELETE, "/1.0/apps/shop", "").await;
    client.read_to_close().await;
    wait_until_dead(&pid).await;
    fixture.wait_until_no_session().await;
    fixture.tancho.stop_with_units().await;
}

#[tokio::test]
async fn processes_of_commands_end_when_the_server_stops() {
    let fixture = ExecFixture::with_local_unit().await;
    let mut client = fixture.open_shell(&fixture.ana, "").await;
    client
        .type_text("trap '' HUP TERM; sleep 1000 & echo pid=$!=\n")
        .await;
    let pid = read_pid(&mut client).await;
    fixture.tancho.stop_with_units().await;
    wait_until_dead(&pid).await;
}

#[tokio::test]
async fn fifty_shells_at_once_respond_quickly() {
    let fixture = ExecFixture::with_local_unit().await;
    let mut shells = Vec::new();
    for _ in 0..50 {
        shells.push(fixture.open_shell(&fixture.ana, "").await);
    }
    for (n, client) in shells.iter_mut().enumerate() {
        client
            .type_text(&format!("stty -echo; echo re''ady-{n}; exec cat\n"))
            .await;
    }
    for (n, client) in shells.iter_mut().enumerate() {
        client.read_until(&format!("ready-{n}\r\n")).await;
    }
    let mut times = Vec::new();
    for (n, client) in shells.iter_mut().enumerate() {
        let began = Instant::now();
        client.type_text(&format!("again-{n}\n")).await;
        client.read_until(&format!("again-{n}\r\n")).await;
        times.push(began.elapsed());
    }
    times.sort();
    // A poll in the path would make every round trip slow; a busy machine makes some slow.
    assert!(times[10] < Duration::from_millis(20), "{times:?}");
    drop(shells);
    fixture.wait_until_no_session().await;
    fixture.tancho.stop_with_units().await;
}
