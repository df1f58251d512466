//! Templates of paths: `/rules/{id}/sync`. `{id}` stands for one segment, a slash or `{rest...}` at the end for any
//! number of them, and `{$}` at the end for nothing.

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPattern(Vec<PatternPart>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PatternPart {
    // In the order of preference.
    Literal(String),
    Any,
    Rest,
}

/// How two templates relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatternRelation {
    /// No path matches both, or one of them is the more specific one for all paths that match both.
    Ordered,
    /// Some path matches both, and neither is more specific.
    Conflicting,
}

impl PathPattern {
    /// Parses a template; a missing slash at the beginning is added. Errors: what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("it is empty");
        }
        if text.chars().any(char::is_control) || text.contains(['?', '#', '\\']) {
            return Err("it may not contain control characters and ? # \\");
        }
        let segments: Vec<&str> = text.strip_prefix('/').unwrap_or(text).split('/').collect();
        let mut parts = Vec::new();
        let mut names = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            let is_last = at + 1 == segments.len();
            match parse_segment(segment, is_last, &mut names)? {
                Some(part) => parts.push(part),
                None => break,
            }
        }
        Ok(Self(parts))
    }

    /// True if a path, given by its segments, matches.
    pub(super) fn matches(&self, path: &[String]) -> bool {
        let mut path = path.iter();
        for part in &self.0 {
            match (part, path.next()) {
                (PatternPart::Rest, _) => return true,
                (PatternPart::Any, Some(_)) => {}
                (PatternPart::Literal(text), Some(segment)) if text == segment => {}
                _ => return false,
            }
        }
        path.next().is_none()
    }

    /// True if this template is preferred to another one that matches the same path.
    pub(super) fn is_preferred_to(&self, other: &Self) -> bool {
        let kinds = |pattern: &Self| -> Vec<u8> {
            let kind = |part: &PatternPart| match part {
                PatternPart::Literal(_) => 0,
                PatternPart::Any => 1,
                PatternPart::Rest => 2,
            };
            pattern.0.iter().map(kind).collect()
        };
        kinds(self) < kinds(other)
    }

    /// Compares two templates of one method.
    pub(super) fn relation(&self, other: &Self) -> PatternRelation {
        use PatternPart::{Any, Literal, Rest};
        let (mut ours, mut theirs) = (false, false);
        let mut at = 0;
        loop {
            match (self.0.get(at), other.0.get(at)) {
                (Some(Literal(a)), Some(Literal(b))) if a != b => return PatternRelation::Ordered,
                (Some(Literal(_)), Some(Any)) => ours = true,
                (Some(Any), Some(Literal(_))) => theirs = true,
                (Some(Rest), Some(Rest)) | (None, None) => break,
                (_, Some(Rest)) => {
                    ours = true;
                    break;
                }
                (Some(Rest), _) => {
                    theirs = true;
                    break;
                }
                (None, Some(_)) | (Some(_), None) => return PatternRelation::Ordered,
                (Some(_), Some(_)) => {}
            }
            at += 1;
        }
        match ours == theirs {
            true => PatternRelation::Conflicting,
            false => PatternRelation::Ordered,
        }
    }
}

/// Parses a segment. `None`: the template ends before it.
fn parse_segment<'a>(
    segment: &'a str,
    is_last: bool,
    names: &mut Vec<&'a str>,
) -> Result<Option<PatternPart>, &'static str> {
    if segment.is_empty() {
        return match is_last {
            true => Ok(Some(PatternPart::Rest)),
            false => Err("it has an empty segment"),
        };
    }
    let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return match segment.contains(['{', '}']) || matches!(segment, "." | "..") {
            true => Err("braces enclose whole segments, and no segment is . or .."),
            false => Ok(Some(PatternPart::Literal(segment.to_owned()))),
        };
    };
    if name == "$" {
        return match is_last {
            true => Ok(None),
            false => Err("{$} is allowed at the end only"),
        };
    }
    let (name, part) = match name.strip_suffix("...") {
        Some(_) if !is_last => return Err("{name...} is allowed at the end only"),
        Some(name) => (name, PatternPart::Rest),
        None => (name, PatternPart::Any),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name || names.contains(&name) {
        return Err("the names in braces are different words of letters, digits and _");
    }
    names.push(name);
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    fn matches(pattern: &str, path: &str) -> bool {
        let path: Vec<String> = path
            .split('/')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect();
        parse(pattern).matches(&path)
    }

    #[test]
    fn templates_match_whole_paths() {
        for (pattern, path, is_match) in [
            ("/rules", "/rules", true),
            ("rules", "/rules", true),
            ("/rules", "/rules/1", false),
            ("/rules/{id}", "/rules/1", true),
            ("/rules/{id}", "/rules", false),
            ("/rules/{id}", "/rules/1/2", false),
            ("/rules/{id}/sync", "/rules/1/sync", true),
            ("/rules/", "/rules/1/2", true),
            ("/rules/", "/rules", true),
            ("/files/{path...}", "/files/a/b", true),
            ("/{$}", "/", true),
            ("/{$}", "/a", false),
            ("/", "/a/b", true),
            ("/rules", "/Rules", false),
        ] {
            assert_eq!(matches(pattern, path), is_match, "{pattern} {path}");
        }
    }

    #[test]
    fn invalid_templates_are_rejected() {
        for text in [
            "",
            " ",
            "/a//b",
            "/{a}b",
            "/{a",
            "/{}",
            "/{1}",
            "/{a}/{a}",
            "/{a...}/b",
            "/{$}/a",
            "/../a",
            "/a?b",
            "/a\nb",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn more_specific_template_is_preferred_and_ambiguous_ones_conflict() {
        for (one, other) in [
            ("/rules/new", "/rules/{id}"),
            ("/rules/{id}", "/rules/"),
            ("/rules", "/{x}"),
            ("/a/{x}/c", "/a/{x}/"),
            ("/a", "/a/"),
        ] {
            assert_eq!(
                parse(one).relation(&parse(other)),
                PatternRelation::Ordered,
                "{one} {other}"
            );
            assert!(parse(one).is_preferred_to(&parse(other)), "{one} {other}");
            assert!(!parse(other).is_preferred_to(&parse(one)), "{one} {other}");
        }
        for (one, other) in [
            ("/a/{x}", "/{x}/b"),
            ("/a/{x}", "/a/{y}"),
            ("/{x}/b", "/a/"),
            ("/a/", "/a/{x...}"),
        ] {
            assert_eq!(
                parse(one).relation(&parse(other)),
                PatternRelation::Conflicting,
                "{one} {other}"
            );
        }
        assert_eq!(parse("/a").relation(&parse("/b")), PatternRelation::Ordered);
        assert_eq!(parse("/a").relation(&parse("/a/b")), PatternRelation::Ordered);
    }
}
