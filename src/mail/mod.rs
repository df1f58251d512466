//! Mail: a letter goes to an SMTP server, or, as long as none is set, into a folder of this machine where
//! the operator finds it.
//!
//! Letters may hold secrets, so their text is in no log and no error; what lies in the folder is readable
//! by its owner only. Sending takes as long as it takes: who sends does so outside of requests.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use uuid::Uuid;

use crate::config::MailSettings;
use crate::kernel::names::Email;
use crate::kernel::problem::{Kind, Problem};
use crate::kernel::secret::Secret;

/// For each step of a talk with the SMTP server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Letters kept in the folder; the oldest go first.
const KEPT: usize = 1000;

/// A letter to one person.
#[derive(Debug)]
pub struct Letter {
    /// The same at every attempt, so that the folder has it once, and a mailbox can tell.
    pub id: Uuid,
    pub to: Email,
    pub subject: String,
    pub text: Secret,
}

/// The way to everybody's mailbox.
pub struct Mailer {
    from: Mailbox,
    way: Way,
}

enum Way {
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
    Folder(PathBuf),
}

impl Mailer {
    /// A mailer as the settings say; `folder` is for when they name no server. Errors: `Invalid`.
    pub fn new(settings: &MailSettings, folder: PathBuf) -> Result<Self, Problem> {
        let from = settings
            .from
            .parse()
            .map_err(|_| Problem::invalid("The setting `mail.from` is not an e-mail address."))?;
        let way = match settings.smtp_url.is_empty() {
            true => Way::Folder(folder),
            // What is wrong is not repeated: the URL holds a password.
            false => AsyncSmtpTransport::<Tokio1Executor>::from_url(settings.smtp_url.expose())
                .map(|builder| Way::Smtp(Box::new(builder.timeout(Some(PATIENCE)).build())))
                .map_err(|_| {
                    Problem::invalid("The setting `mail.smtp_url` is not the URL of an SMTP server.")
                })?,
        };
        Ok(Self { from, way })
    }

    /// Sends a letter. Errors: `Unavailable` when it may work later; else `Failed`.
    pub async fn send(&self, letter: &Letter) -> Result<(), Problem> {
        let unfit = |error: &dyn std::fmt::Display| {
            Problem::new(Kind::Failed, "The mail cannot be written to this address.")
                .because(error.to_string())
        };
        let to: lettre::Address = letter.to.as_str().parse().map_err(|e| unfit(&e))?;
        let message = Message::builder()
            .message_id(Some(format!("<{}@{}>", letter.id, self.from.email.domain())))
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(letter.subject.clone())
            .header(ContentType::TEXT_PLAIN)
            .body(letter.text.expose().to_owned())
            .map_err(|e| unfit(&e))?;
        match &self.way {
            Way::Smtp(server) => server.send(message).await.map(drop).map_err(|error| {
                let kind = if error.is_permanent() {
                    Kind::Failed
                } else {
                    Kind::Unavailable
                };
                Problem::new(kind, "The mail server did not take the mail.").because(error)
            }),
            Way::Folder(folder) => {
                let (folder, id, bytes) = (folder.clone(), letter.id, message.formatted());
                let path = tokio::task::spawn_blocking(move || keep(&folder, id, &bytes))
                    .await
                    .map_err(Problem::internal)?
                    .map_err(|error| {
                        Problem::unavailable("The mail could not be written to the folder.").because(error)
                    })?;
                tracing::info!(to = %letter.to, path = %path.display(), "no mail server is set; the mail is in a file");
                Ok(())
            }
        }
    }
}

/// Writes a letter for its owner's eyes alone, whole or not at all.
fn keep(folder: &Path, id: Uuid, bytes: &[u8]) -> io::Result<PathBuf> {
    let path = folder.join(format!("{id}.eml"));
    let fresh = folder.join(format!(".{id}"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    let mut letters: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "eml"))
        .collect();
    // The ids sort by time.
    letters.sort();
    for old in letters.iter().rev().skip(KEPT) {
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

    fn letter() -> Letter {
        Letter {
            id: Uuid::now_v7(),
            to: Email::parse("ana@example.com").unwrap(),
            subject: "Hello".into(),
            text: Secret::new("canary"),
        }
    }

    #[tokio::test]
    async fn without_a_server_a_letter_lies_in_the_folder_for_its_owner_alone() {
        let folder = std::env::temp_dir().join(format!("tancho-mail-{}", Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let mailer = Mailer::new(&settings(""), folder.clone()).unwrap();
        let letter = letter();
        for _ in 0..2 {
            mailer.send(&letter).await.unwrap();
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

    /// Plays the server's side of one letter; answers what the client said.
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
    async fn a_server_that_is_set_gets_the_letter_and_its_verdict_counts() {
        for (verdict, kind) in [
            ("250 taken", None),
            ("450 later", Some(Kind::Unavailable)),
            ("550 never", Some(Kind::Failed)),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("smtp://127.0.0.1:{}", listener.local_addr().unwrap().port());
            let server = tokio::spawn(serve(listener, verdict));
            let mailer = Mailer::new(&settings(&url), PathBuf::new()).unwrap();
            let sent = mailer.send(&letter()).await;
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
    fn a_wrong_url_is_refused_without_being_shown() {
        for url in ["http://user:canary@mail.example.com", "canary"] {
            let refusal = Mailer::new(&settings(url), PathBuf::new()).err().unwrap();
            assert!(!refusal.chain().contains("canary"), "{}", refusal.chain());
        }
    }
}
