//! Command lines that are nothing but words: they mean the same with and without a shell.

/// Writes words as a line that a shell splits into the same words.
pub fn quote_words<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(quote_word).collect();
    quoted.join(" ")
}

fn quote_word(word: &str) -> String {
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c)
}

/// Returns the words of a line; `None` if a shell would make something else of it than words, or the first of them is
/// for a shell alone (an assignment, or a name without a path that it may know itself).
pub fn parse_plain_words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut rest = line.trim().chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' => words.extend(word.take()),
            '\'' => {
                let begun = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '\'' => break,
                        quoted => begun.push(quoted),
                    }
                }
            }
            '\\' if rest.clone().next() == Some('\'') => word.get_or_insert_default().push(rest.next()?),
            c if is_plain(c) => word.get_or_insert_default().push(c),
            _ => return None,
        }
    }
    words.extend(word);
    let first = words.first()?;
    (first.contains('/') && !first.contains('=')).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were() {
        for words in [
            &["/server"][..],
            &["/bin/app", "--name=a b", "", "it's", "$HOME", "`x`", "a\nb", "é"],
            &["./run", "'", "\\", "\"", "*"],
        ] {
            let line = quote_words(words.iter().copied());
            assert_eq!(parse_plain_words(&line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn lines_for_a_shell_are_no_plain_words() {
        for line in [
            "",
            "   ",
            "exec sleep 10",
            "python app.py",
            "A=1 /bin/x",
            "A=/x",
            "/bin/x $PORT",
            "/bin/x > /dev/null",
            "/bin/x \"a\"",
            "/bin/x; /bin/y",
            "/bin/x 'open",
            "/bin/x *",
            "/bin/x\n/bin/y",
            "/bin/x \\n",
            "~/x",
        ] {
            assert_eq!(parse_plain_words(line), None, "{line:?}");
        }
    }
}
