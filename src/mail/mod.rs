//! Sends mail to an SMTP server or, while none is configured, writes it to a folder on this machine for the
//! operator.
//!
//! Mails may contain secrets: their text appears in no log and no error, and the files in the folder are
//! readable by their owner only. Sending may take long, so it is done outside of requests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use uuid::Uuid;

use crate::config::MailSettings;
use crate::datadir::atomic_file;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::Email;
use crate::kernel::secret::Secret;

/// The timeout of each step of an SMTP session.
const SMTP_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of mails kept in the folder; the oldest are deleted first.
const MAX_KEPT_MESSAGES: usize = 1000;

/// A mail to one recipient.
#[derive(Debug)]
pub struct MailMessage {
    /// The same at every attempt, so that the folder keeps one copy and mail servers can deduplicate.
    pub id: Uuid,
    pub to: Email,
    pub subject: String,
    pub text: Secret,
}

/// Sends mail by the configured transport.
pub struct Mailer {
    from: Mailbox,
    transport: MailTransport,
}

enum MailTransport {
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
    Folder(PathBuf),
}

impl Mailer {
    /// Creates a mailer from the settings; `folder` is used when they name no server. Errors: `Invalid`.
    pub fn new(settings: &MailSettings, folder: PathBuf) -> Result<Self, Error> {
        let from = settings
            .from
            .parse()
            .map_err(|_| Error::invalid("The setting `mail.from` is not an e-mail address."))?;
        let way = match settings.smtp_url.is_empty() {
            true => {
                // Nobody writes there yet. A folder that cannot be read is told of by the first mail.
                let _ = atomic_file::remove_temporary_files(&folder);
                MailTransport::Folder(folder)
            }
            // What is wrong is not repeated: the URL holds a password.
            false => AsyncSmtpTransport::<Tokio1Executor>::from_url(settings.smtp_url.expose_secret())
                .map(|builder| MailTransport::Smtp(Box::new(builder.timeout(Some(SMTP_TIMEOUT)).build())))
                .map_err(|_| {
                    Error::invalid("The setting `mail.smtp_url` is not the URL of an SMTP server.")
                })?,
        };
        Ok(Self { from, transport: way })
    }

    /// Sends a mail. Errors: `Unavailable` when a retry may succeed, else `Failed`.
    pub async fn send_message(&self, letter: &MailMessage) -> Result<(), Error> {
        let unfit = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Failed, "Cannot compose a mail to this address.")
                .with_source(error.to_string())
        };
        let to: lettre::Address = letter.to.as_str().parse().map_err(|e| unfit(&e))?;
        let message = Message::builder()
            .message_id(Some(format!("<{}@{}>", letter.id, self.from.email.domain())))
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(letter.subject.clone())
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.expose_secret().to_owned())
            .map_err(|e| unfit(&e))?;
        match &self.transport {
            MailTransport::Smtp(server) => server.send(message).await.map(drop).map_err(|error| {
                let kind = if error.is_permanent() {
                    ErrorKind::Failed
                } else {
                    ErrorKind::Unavailable
                };
                Error::new(kind, "The mail server did not accept the mail.").with_source(error)
            }),
            MailTransport::Folder(folder) => {
                let (folder, id, bytes) = (folder.clone(), letter.id, message.formatted());
                let path = tokio::task::spawn_blocking(move || write_to_folder(&folder, id, &bytes))
                    .await
                    .map_err(Error::internal)?
                    .map_err(|error| {
                        Error::unavailable("Cannot write the mail to the folder.").with_source(error)
                    })?;
                tracing::info!(to = %letter.to, path = %path.display(), "no mail server is configured; mail written to a file");
                Ok(())
            }
        }
    }
}

/// Writes a mail to the folder, readable by its owner only; the file appears complete or not at all.
fn write_to_folder(folder: &Path, id: Uuid, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = folder.join(format!("{id}.eml"));
    atomic_file::write_file(&path, bytes, 0o600, None)?;
    let mut letters: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "eml"))
        .collect();
    // The ids sort by time.
    letters.sort();
    for old in letters.iter().rev().skip(MAX_KEPT_MESSAGES) {
        fs::remove_file(old)?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn settings(smtp_url: &str) -> MailSettings {
        MailSettings {
            smtp_url: Secret::new(smtp_url),
            from: "Tancho <tancho@example.com>".into(),
        }
    }

    fn test_message() -> MailMessage {
        MailMessage {
            id: Uuid::now_v7(),
            to: Email::parse("ana@example.com").unwrap(),
            subject: "Hello".into(),
            text: Secret::new("canary"),
        }
    }

    #[tokio::test]
    async fn mail_without_smtp_server_is_written_to_the_folder_readable_by_owner_only() {
        let folder = std::env::temp_dir().join(format!("tancho-mail-{}", Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(".0190-killed"), "half a ma").unwrap();
        let mailer = Mailer::new(&settings(""), folder.clone()).unwrap();
        let letter = test_message();
        for _ in 0..2 {
            mailer.send_message(&letter).await.unwrap();
        }
        let path = folder.join(format!("{}.eml", letter.id));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("To: ana@example.com") && text.contains("canary"),
            "{text}"
        );
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    /// Plays the server's side of one SMTP session; returns what the client sent.
    async fn serve(listener: tokio::net::TcpListener, verdict: &str) -> String {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let (mut said, mut in_data) = (String::new(), false);
        write.write_all(b"220 test ESMTP\r\n").await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            said.push_str(&line);
            said.push('\n');
            let answer = match line.as_str() {
                "." if in_data => {
                    in_data = false;
                    format!("{verdict}\r\n")
                }
                _ if in_data => continue,
                "DATA" => {
                    in_data = true;
                    "354 go on\r\n".to_owned()
                }
                "QUIT" => {
                    let _ = write.write_all(b"221 bye\r\n").await;
                    break;
                }
                _ => "250 test\r\n".to_owned(),
            };
            if write.write_all(answer.as_bytes()).await.is_err() {
                break;
            }
            if !in_data && line == "." {
                break;
            }
        }
        said
    }

    #[tokio::test]
    async fn smtp_server_gets_the_mail_and_its_reply_decides_the_error() {
        for (verdict, kind) in [
            ("250 taken", None),
            ("450 later", Some(ErrorKind::Unavailable)),
            ("550 never", Some(ErrorKind::Failed)),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("smtp://127.0.0.1:{}", listener.local_addr().unwrap().port());
            let server = tokio::spawn(serve(listener, verdict));
            let mailer = Mailer::new(&settings(&url), PathBuf::new()).unwrap();
            let sent = mailer.send_message(&test_message()).await;
            assert_eq!(sent.err().map(|p| p.kind()), kind, "{verdict}");
            let said = server.await.unwrap();
            for part in [
                "MAIL FROM:<tancho@example.com>",
                "RCPT TO:<ana@example.com>",
                "canary",
            ] {
                assert!(said.contains(part), "{part} in {said}");
            }
        }
    }

    #[test]
    fn an_invalid_smtp_url_is_rejected_without_being_quoted() {
        for url in ["http://user:canary@mail.example.com", "canary"] {
            let refusal = Mailer::new(&settings(url), PathBuf::new()).err().unwrap();
            assert!(!refusal.report().contains("canary"), "{}", refusal.report());
        }
    }
}
