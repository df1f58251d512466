//! The search for secrets.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Returns a secret in every form in which it may be stored: plain, in hexadecimal, percent-encoded, and in
/// base64 at every offset.
pub(super) fn encoded_forms(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let encoded = |plain: &dyn Fn(u8) -> bool, upper: bool| -> String {
        let byte = |byte: u8| match (plain(byte), upper) {
            (true, _) => char::from(byte).to_string(),
            (false, true) => format!("%{byte:02X}"),
            (false, false) => format!("%{byte:02x}"),
        };
        secret.bytes().map(byte).collect()
    };
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut forms = vec![
        secret.to_owned(),
        hex.to_uppercase(),
        hex,
        encoded(&unreserved, true),
        encoded(&unreserved, false),
        encoded(&unreserved, true).replace("%20", "+"),
        secret.replace('/', "\\/"),
    ];
    for before in 0..3 {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret.as_bytes());
        let text = BASE64.encode(&bytes);
        // Characters that depend on adjacent bytes are left out at both ends.
        let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        let part = text[from..to].to_owned();
        forms.push(part.replace('+', "-").replace('/', "_"));
        forms.push(part);
    }
    forms.sort();
    forms.dedup();
    forms
}

/// Returns which of the strings are in files below the folders, as `file: text`.
pub(super) fn search(forms: &[String], folders: &[&Path]) -> Vec<String> {
    let list = std::env::temp_dir().join(format!("tancho-forms-{}", uuid::Uuid::new_v4()));
    fs::write(&list, forms.join("\n")).unwrap();
    let mut grep = Command::new("grep");
    grep.args(["-r", "-o", "-a", "-F", "-s", "-f"]).arg(&list);
    // The key file decrypts the rest; a mail without a server is the message itself, for its recipient.
    grep.args(["--exclude=seal.keys", "--exclude-dir=mail"]);
    let found = grep.env("LC_ALL", "C").args(folders).output().unwrap();
    fs::remove_file(&list).unwrap();
    let mut found: Vec<String> = String::from_utf8_lossy(&found.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn canary_search_finds_all_encodings() {
    let folder = std::env::temp_dir().join(format!("tancho-search-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&folder).unwrap();
    let secret = "c4n/ary+9 b5&2e1";
    for (at, text) in [
        format!("value={secret};"),
        "hex 0063346e2f6172792b3920623526326531ff".to_owned(),
        "HEX 63346E2F6172792B3920623526326531".to_owned(),
        "token=c4n%2Fary%2B9%20b5%262e1".to_owned(),
        "token=c4n%2Fary%2B9+b5%262e1&x".to_owned(),
        BASE64.encode(format!("u:{secret}")),
        BASE64.encode(format!("us:{secret}zz")),
        BASE64.encode(format!("use:{secret}z")),
        BASE64.encode(secret),
    ]
    .iter()
    .enumerate()
    {
        let file = folder.join(format!("file-{at}"));
        fs::write(&file, text).unwrap();
        assert_eq!(
            search(&encoded_forms(secret), &[&folder]).len(),
            1,
            "{text} is not found"
        );
        fs::remove_file(&file).unwrap();
    }
    fs::remove_dir_all(&folder).unwrap();
}
