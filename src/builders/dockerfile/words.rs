//! The words of a Dockerfile's instruction. What could be read in more than one way is not read at all.

use std::collections::BTreeMap;

/// An instruction's options, and what follows them.
pub(super) struct Flags<'a> {
    pub(super) flags: Vec<&'a str>,
    pub(super) others: &'a str,
}

/// Whether a word has characters that a shell, or the builder in its place, would treat.
pub(super) fn has_shell_marks(word: &str, escape: char) -> bool {
    word.contains(['$', '"', '\'', '\\', escape])
}

/// Splits the options off; `None` if one has quotes or escapes.
pub(super) fn split_flags(text: &str, escape: char) -> Option<Flags<'_>> {
    let (mut flags, mut others) = (Vec::new(), text.trim_start());
    while others.starts_with("--") {
        let (flag, rest) = others.split_once(char::is_whitespace).unwrap_or((others, ""));
        if flag.contains(['"', '\'', '\\', escape]) {
            return None;
        }
        flags.push(flag);
        others = rest.trim_start();
    }
    Some(Flags { flags, others })
}

/// Replaces `$NAME` and `${NAME}`; `None` for anything else that would be replaced, and for an unknown value.
pub(super) fn expand_name(
    word: &str,
    values: &BTreeMap<String, Option<String>>,
    escape: char,
) -> Option<String> {
    if word.contains(['"', '\'', '\\', escape]) {
        return None;
    }
    let mut parts = word.split('$');
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = match part.strip_prefix('{') {
            Some(braced) => braced.split_once('}')?,
            None => {
                let end = part.find(|c: char| !is_name_char(c)).unwrap_or(part.len());
                part.split_at(end)
            }
        };
        if name.is_empty() || !name.chars().all(is_name_char) {
            return None;
        }
        expanded.push_str(values.get(name)?.as_deref()?);
        expanded.push_str(rest);
    }
    // A value that the app gives is no more trusted than one of the file.
    (!has_shell_marks(&expanded, escape) && !expanded.chars().any(char::is_whitespace)).then_some(expanded)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_variables_of_known_value_are_replaced() {
        let values = BTreeMap::from([
            ("A".to_owned(), Some("one".to_owned())),
            ("B".to_owned(), None),
            ("C".to_owned(), Some("x y".to_owned())),
        ]);
        for (word, expanded) in [
            ("a:1", Some("a:1")),
            ("$A", Some("one")),
            ("x/${A}-y:$A", Some("x/one-y:one")),
            ("$B", None),
            ("$C", None),
            ("$D", None),
            ("${A:-x}", None),
            ("${A", None),
            ("$", None),
            ("$$A", None),
            ("a\\$A", None),
            ("\"a\"", None),
        ] {
            assert_eq!(expand_name(word, &values, '\\').as_deref(), expanded, "{word}");
        }
    }

    #[test]
    fn options_end_at_the_first_other_word() {
        let split = split_flags(" --chown=1  --from=a\tx --y", '\\').unwrap();
        assert_eq!(
            (split.flags, split.others),
            (vec!["--chown=1", "--from=a"], "x --y")
        );
        assert!(split_flags("--a=\"b c\" x", '\\').is_none());
        assert_eq!(split_flags("x", '\\').unwrap().others, "x");
    }
}
