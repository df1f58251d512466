//! Commands and shells in a unit: terminals, merged output, and the end of all of it.

use tancho::provisioners::{ExecProgram, ExecSession, ExecStreams, ExecTerminal, TerminalSize};

use super::isolation::{OTHER, USER, isolated_fixture, kernel_has, own_uid};
use super::*;

fn terminal_request(program: ExecProgram) -> ExecRequest {
    let size = TerminalSize { cols: 90, rows: 30 };
    let term = "xterm-256color".to_owned();
    ExecRequest {
        program,
        streams: ExecStreams::Terminal(ExecTerminal { size, term }),
    }
}

fn line_request(line: &str, streams: ExecStreams) -> ExecRequest {
    ExecRequest {
        program: ExecProgram::ShellLine(line.to_owned()),
        streams,
    }
}

/// A fixture with a unit that waits, of a user of its own if the test may change users.
async fn fixture_with_unit(name: &str) -> (LocalFixture, UnitSpec) {
    let fixture = isolated_fixture(|_| {});
    let mut spec = fixture.spec(name, "exec sleep 1000");
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
    set_env(&mut spec, "PASSWORD", "hunter2");
    fixture.start(&spec).await;
    (fixture, spec)
}

/// Reads until the output contains `text`; returns all of it.
async fn read_until(session: &mut ExecSession, text: &str) -> String {
    let mut output = String::new();
    let reading = async {
        let mut buffer = [0; 1024];
        while !output.contains(text) {
            let count = session.output.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{text:?} did not come: {output:?}");
            output.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    if tokio::time::timeout(Duration::from_secs(15), reading)
        .await
        .is_err()
    {
        panic!("{text:?} did not come: {output:?}");
    }
    output
}

async fn read_all(session: &mut ExecSession) -> String {
    let mut output = Vec::new();
    session.output.read_to_end(&mut output).await.unwrap();
    String::from_utf8(output).unwrap()
}

#[tokio::test]
async fn shell_has_a_terminal_that_can_be_resized() {
    let (fixture, spec) = fixture_with_unit("terminal").await;
    let request = terminal_request(ExecProgram::InteractiveShell);
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    session
        .input
        .write_all(b"stty size; echo $TERM-$PASSWORD\n")
        .await
        .unwrap();
    let output = read_until(&mut session, "xterm-256color-hunter2").await;
    assert!(output.contains("30 90"), "{output}");
    session.resize.as_ref().unwrap()(TerminalSize { cols: 120, rows: 40 });
    session
        .input
        .write_all(b"stty size; tty; exit 3\n")
        .await
        .unwrap();
    let output = read_all(&mut session).await;
    assert!(
        output.contains("40 120") && output.contains("/dev/pts/"),
        "{output}"
    );
    assert_eq!(session.end.await, Ok(3));
}

#[tokio::test]
async fn interrupt_key_ends_the_program_in_the_foreground_and_not_the_shell() {
    let (fixture, spec) = fixture_with_unit("interrupt").await;
    let request = terminal_request(ExecProgram::InteractiveShell);
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    session.input.write_all(b"echo re''ady; cat\n").await.unwrap();
    read_until(&mut session, "ready").await;
    session.input.write_all(b"line\n").await.unwrap();
    read_until(&mut session, "line\r\nline").await;
    session.input.write_all(b"\x03").await.unwrap();
    // The shell drops what is typed before its next prompt.
    read_until(&mut session, "$ ").await;
    session.input.write_all(b"echo status-$?\n").await.unwrap();
    read_until(&mut session, "status-130").await;
    session.input.write_all(b"exit\n").await.unwrap();
    read_all(&mut session).await;
}

#[tokio::test]
async fn hang_up_of_a_terminal_kills_all_descendants() {
    let (fixture, spec) = fixture_with_unit("hangup").await;
    let request = terminal_request(ExecProgram::InteractiveShell);
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    let line = "trap '' HUP; (trap '' HUP; setsid sleep 1001) & echo pid=$!.e''nd\n";
    session.input.write_all(line.as_bytes()).await.unwrap();
    let output = read_until(&mut session, ".end").await;
    let pid = output
        .rsplit("pid=")
        .next()
        .unwrap()
        .split(".end")
        .next()
        .unwrap();
    assert!(pid.parse::<u32>().is_ok(), "{output:?}");
    drop(session);
    wait_until_dead(pid).await;
    assert_eq!(
        find_report(&*fixture.local, &spec.unit).await.unwrap().state,
        UnitState::Started
    );
}

#[tokio::test]
async fn merged_output_keeps_the_order_of_both_streams() {
    let (fixture, spec) = fixture_with_unit("merged").await;
    let request = line_request("echo a; echo b >&2; echo c; exit 5", ExecStreams::Merged);
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    assert_eq!(read_all(&mut session).await, "a\nb\nc\n");
    assert_eq!(session.end.await, Ok(5));
}

#[tokio::test]
async fn command_line_gets_variables_that_are_no_shell_names() {
    let (fixture, mut spec) = fixture_with_unit("names").await;
    fixture.local.remove_unit(&spec.unit).await.unwrap();
    set_env(&mut spec, "DB-HOST", "db.example");
    fixture.start(&spec).await;
    let request = line_request("env", ExecStreams::Merged);
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    let output = read_all(&mut session).await;
    let passes_on = Path::new("/bin/bash").exists();
    assert_eq!(output.contains("DB-HOST=db.example"), passes_on, "{output}");
}

#[tokio::test]
async fn command_ends_with_its_unit_even_without_cgroups() {
    let fixture = LocalFixture::new_without_cgroups();
    let spec = fixture.spec("removed", "exec sleep 1000");
    fixture.start(&spec).await;
    let request = line_request("echo $$; exec sleep 1000", ExecStreams::Merged);
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    let pid = read_until(&mut session, "\n").await;
    fixture.local.remove_unit(&spec.unit).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(15), session.end).await;
    assert_eq!(end.unwrap(), Ok(137));
    wait_until_dead(pid.trim()).await;
}

#[tokio::test]
async fn command_in_a_unit_has_no_more_rights_than_the_unit() {
    if !kernel_has("Landlock") {
        return;
    }
    let (fixture, spec) = fixture_with_unit("rights").await;
    let mut other = fixture.spec("other", "echo secret > $HOME/file; echo end; exec sleep 1000");
    fixture.place(&mut other, fixture.root.join("app"), own_uid(OTHER));
    fixture.start(&other).await;
    fixture.wait_for_log_line(&other, "end").await;
    let file = fixture.unit(&other.unit).join("home/file");
    let line = format!(
        "cat {}; cat /proc/{}/environ; echo x > /etc/tancho; echo x > $HOME/mine && cat $HOME/mine; echo $TMPDIR; id -u; pwd",
        file.display(),
        fixture.pid(&other.unit)
    );
    for streams in [
        ExecStreams::Merged,
        terminal_request(ExecProgram::InteractiveShell).streams,
    ] {
        let request = line_request(&line, streams);
        let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
        let output = read_all(&mut session).await;
        let user = user_of(&spec);
        assert!(
            !output.contains("secret") && !output.contains("SOME=value"),
            "{output}"
        );
        assert!(output.matches("denied").count() >= 3, "{output}");
        let home = fixture.unit(&spec.unit).join("home");
        for line in [
            "x",
            home.to_str().unwrap(),
            &user.to_string(),
            fixture.root.join("app").to_str().unwrap(),
        ] {
            assert!(output.lines().any(|l| l.trim_end() == line), "{line}: {output}");
        }
    }
}

#[tokio::test]
async fn terminal_belongs_to_the_user_of_the_unit_alone() {
    let (fixture, spec) = fixture_with_unit("owner").await;
    let request = line_request("stat -c '%a %u' $(tty); cat < /dev/null > $(tty) && echo open", {
        terminal_request(ExecProgram::InteractiveShell).streams
    });
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    let output = read_all(&mut session).await;
    let user = user_of(&spec);
    assert!(
        output.contains(&format!("600 {user}")) && output.contains("open"),
        "{output}"
    );
}
