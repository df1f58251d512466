//! Reads a Dockerfile, and writes it anew as the engine gets it.
//!
//! The classic builder of an engine looks names up among all images that the engine has, those of other apps included,
//! and even by the beginning of an id; and `ADD` fetches addresses with the network of the host. So every name of an
//! image is determined here, and the text is written anew with nothing that could be read in two ways: one
//! instruction a line, whole names, no variable in them.

use std::collections::BTreeMap;

use super::words::{Flags, expand_name, has_shell_marks, split_flags};
use crate::kernel::artifact::ImageName;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

/// The stage that is nothing.
const SCRATCH: &str = "scratch";

/// A Dockerfile that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DockerfilePlan {
    /// What the engine gets.
    pub(super) text: String,
    /// The images that it begins with or copies from, without those that it makes itself.
    pub(super) bases: Vec<ImageName>,
    /// The variables that it asks for.
    pub(super) args: Vec<String>,
}

/// One instruction, on one line.
struct LogicalLine {
    /// Its first line in the file.
    number: usize,
    text: String,
}

impl LogicalLine {
    fn refuse<T>(&self, why: &str) -> Result<T, Error> {
        Err(refuse_line(self.number, why))
    }
}

fn refuse_line(number: usize, why: &str) -> Error {
    Error::invalid(format!("Dockerfile, line {number}: {why}."))
}

/// Reads a Dockerfile. `given`: what the app gives to variables that it asks for. `label`: what marks all images of the
/// build. Errors: `Invalid`, with the line.
pub(super) fn plan_dockerfile(
    text: &str,
    given: &BTreeMap<String, String>,
    target: Option<&str>,
    label: &str,
) -> Result<DockerfilePlan, Error> {
    let text = text.trim_start_matches('\u{feff}');
    let escape = read_escape(text);
    let mut planner = Planner {
        given,
        escape,
        label,
        globals: BTreeMap::new(),
        finished_stages: Vec::new(),
        stage: None,
        plan: DockerfilePlan {
            text: format!("# escape={escape}\n"),
            bases: Vec::new(),
            args: Vec::new(),
        },
    };
    for line in join_lines(text, escape)? {
        planner.add_line(&line)?;
    }
    if planner.stage.is_none() {
        return Err(Error::invalid(
            "The Dockerfile has no FROM: name the image that it begins with.",
        ));
    }
    planner.finish_stage();
    if let Some(target) = target {
        let target = target.to_lowercase();
        if !planner.finished_stages.contains(&Some(target.clone())) {
            return Err(Error::invalid(format!(
                "The Dockerfile has no stage named {}: change TANCHO_BUILD_TARGET.",
                quote_excerpt(&target)
            )));
        }
    }
    Ok(planner.plan)
}

/// Reads the directive `# escape=` from the comments at the top.
fn read_escape(text: &str) -> char {
    for line in text.lines() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|line| line.split_once('='))
        else {
            break;
        };
        if name.trim().eq_ignore_ascii_case("escape") {
            return match value.trim() {
                "`" => '`',
                _ => '\\',
            };
        }
    }
    '\\'
}

/// Joins the lines of each instruction; leaves comments out.
fn join_lines(text: &str, escape: char) -> Result<Vec<LogicalLine>, Error> {
    let mut joined: Vec<LogicalLine> = Vec::new();
    let mut open: Option<LogicalLine> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(refuse_line(number, "it has control characters"));
        }
        let start = line.trim_start();
        if start.is_empty() || start.starts_with('#') {
            continue;
        }
        let is_first = open.is_none();
        let line = if is_first { start } else { line };
        let end = line.trim_end();
        let (kept, goes_on) = match end.strip_suffix(escape) {
            Some(kept) if kept.ends_with(escape) => {
                return Err(refuse_line(
                    number,
                    &format!("it ends with {escape} twice, which builders read differently"),
                ));
            }
            Some(kept) => (kept, true),
            None => (line, false),
        };
        let logical = open.get_or_insert_with(|| LogicalLine {
            number,
            text: String::new(),
        });
        logical.text.push_str(kept);
        if !goes_on {
            joined.extend(open.take());
        }
    }
    joined.extend(open);
    joined.retain(|line| !line.text.trim().is_empty());
    match joined.iter().find(|line| line.text.trim_end().ends_with(escape)) {
        Some(line) => Err(refuse_line(line.number, &format!("it ends with {escape}"))),
        None => Ok(joined),
    }
}

struct Planner<'a> {
    given: &'a BTreeMap<String, String>,
    escape: char,
    label: &'a str,
    /// The variables before the first stage; `None`: a value that is not determined here.
    globals: BTreeMap<String, Option<String>>,
    /// The names of the stages before this one; `None` for one without a name.
    finished_stages: Vec<Option<String>>,
    /// The stage that is being read, with its name.
    stage: Option<Option<String>>,
    plan: DockerfilePlan,
}

impl Planner<'_> {
    fn finish_stage(&mut self) {
        self.finished_stages.extend(self.stage.take());
    }

    fn push_line(&mut self, text: &str) {
        self.plan.text.push_str(text);
        self.plan.text.push('\n');
    }

    fn add_line(&mut self, line: &LogicalLine) -> Result<(), Error> {
        let text = line.text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim_start();
        let word = word.to_ascii_lowercase();
        if self.stage.is_none() && !matches!(word.as_str(), "from" | "arg") {
            return line.refuse("the first instruction is FROM, after ARGs at most");
        }
        match word.as_str() {
            "from" => self.add_from(line, rest),
            "arg" => self.add_arg(text, rest),
            "copy" => self.add_copy(line, rest),
            "onbuild" => self.add_onbuild(line, rest),
            _ => {
                self.check_plain(line, &word, rest)?;
                self.push_line(text);
                Ok(())
            }
        }
    }

    /// Checks an instruction that names no image.
    fn check_plain(&self, line: &LogicalLine, word: &str, rest: &str) -> Result<(), Error> {
        match word {
            "add" if !is_local_add(rest, self.escape) => line.refuse(
                "ADD takes files of the app only, written without variables and quotes: fetch others with RUN",
            ),
            "run" if rest.starts_with("--") => {
                line.refuse("options of RUN need BuildKit, which does not build here: take them out")
            }
            "run" if rest.starts_with("<<") => {
                line.refuse("heredocs (<<) need BuildKit, which does not build here")
            }
            _ => Ok(()),
        }
    }

    fn add_arg(&mut self, text: &str, rest: &str) -> Result<(), Error> {
        for word in rest.split_whitespace() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            self.plan.args.push(name.to_owned());
            if self.stage.is_none() {
                let own = value.unwrap_or_default();
                let own = (!has_shell_marks(own, self.escape)).then(|| own.to_owned());
                let value = self.given.get(name).cloned().map(Some).unwrap_or(own);
                self.globals.insert(name.to_owned(), value);
            }
        }
        self.push_line(text);
        Ok(())
    }

    fn add_from(&mut self, line: &LogicalLine, rest: &str) -> Result<(), Error> {
        self.finish_stage();
        let words: Vec<&str> = rest.split_whitespace().collect();
        // The units decide for which processor an image is.
        let words = match words.as_slice() {
            [flag, others @ ..] if flag.starts_with("--platform=") => others,
            all => all,
        };
        let (image, name) = match words {
            [image] => (*image, None),
            [image, between, name] if between.eq_ignore_ascii_case("as") => {
                (*image, Some(name.to_lowercase()))
            }
            _ => return line.refuse("write FROM image or FROM image AS name"),
        };
        if name.as_deref().is_some_and(|name| !is_stage_name(name)) {
            return line
                .refuse("the name of a stage has small letters, digits and . _ - and begins with a letter");
        }
        let Some(image) = expand_name(image, &self.globals, self.escape) else {
            return line.refuse(
                "name the image plainly, or with ${NAME} of an ARG before the first FROM whose value is plain",
            );
        };
        let is_own = self.find_stage(&image).is_some();
        let source = match is_own || image == SCRATCH {
            true => image.to_lowercase(),
            false => self.take_base(line, &image)?,
        };
        let naming = name
            .as_ref()
            .map(|name| format!(" AS {name}"))
            .unwrap_or_default();
        self.push_line(&format!("FROM {source}{naming}"));
        if !is_own {
            self.push_line(&format!("LABEL {}", self.label));
        }
        self.stage = Some(name);
        Ok(())
    }

    /// Returns the finished stage of this name.
    fn find_stage(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.finished_stages
            .iter()
            .position(|stage| stage.as_ref() == Some(&name))
    }

    fn take_base(&mut self, line: &LogicalLine, name: &str) -> Result<String, Error> {
        let image = ImageName::parse(name).map_err(|error| {
            let why = format!("{}: {}", quote_excerpt(name), error.message());
            refuse_line(line.number, why.trim_end_matches('.'))
        })?;
        let whole = image.to_string();
        if !self.plan.bases.contains(&image) {
            self.plan.bases.push(image);
        }
        Ok(whole)
    }

    fn add_copy(&mut self, line: &LogicalLine, rest: &str) -> Result<(), Error> {
        let Some(Flags { flags, others }) = split_flags(rest, self.escape) else {
            return line.refuse("write the options of COPY without quotes and escapes");
        };
        if others.starts_with("<<") {
            return line.refuse("heredocs (<<) need BuildKit, which does not build here");
        }
        let mut text = "COPY".to_owned();
        for flag in flags {
            text.push(' ');
            match flag.strip_prefix("--from=") {
                Some(from) => text.push_str(&format!("--from={}", self.find_source(line, from)?)),
                None if flag.to_ascii_lowercase().starts_with("--from") => {
                    return line.refuse("write --from=NAME");
                }
                None => text.push_str(flag),
            }
        }
        self.push_line(&format!("{text} {others}"));
        Ok(())
    }

    /// Returns what a COPY copies from: a stage before this one, or an image.
    fn find_source(&mut self, line: &LogicalLine, from: &str) -> Result<String, Error> {
        if from.contains('$') {
            return line.refuse("--from names a stage or an image without variables");
        }
        if from.chars().all(|c| c.is_ascii_digit()) {
            let is_stage = from
                .parse()
                .is_ok_and(|index: usize| index < self.finished_stages.len());
            return match is_stage {
                true => Ok(from.to_owned()),
                false => line.refuse("--from names no stage before this one"),
            };
        }
        match self.find_stage(from) {
            Some(index) => Ok(index.to_string()),
            None => self.take_base(line, from),
        }
    }

    fn add_onbuild(&mut self, line: &LogicalLine, rest: &str) -> Result<(), Error> {
        match is_harmless_trigger(rest) {
            true => {
                self.push_line(&format!("ONBUILD {rest}"));
                Ok(())
            }
            false => line.refuse("ONBUILD takes no FROM, no ADD and no options of COPY here"),
        }
    }
}

/// Whether an instruction that an image brings for the builds that begin with it names no image and no address.
pub fn is_harmless_trigger(text: &str) -> bool {
    let text = text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match word.to_ascii_lowercase().as_str() {
        "copy" => !rest.trim_start().starts_with('-'),
        "add" | "from" | "onbuild" => false,
        word => word.chars().all(|c| c.is_ascii_alphabetic()),
    }
}

/// Whether an ADD names files of the context only, in whatever way its words are read.
fn is_local_add(rest: &str, escape: char) -> bool {
    let is_plain = |word: &str| !word.contains("//") && !has_shell_marks(word, escape);
    match serde_json::from_str::<Vec<String>>(rest) {
        Ok(words) => words.iter().all(|word| is_plain(word)),
        Err(_) => rest.split_whitespace().all(is_plain),
    }
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 128
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<DockerfilePlan, String> {
        let given = BTreeMap::from([("COLOR".to_owned(), "red".to_owned())]);
        plan_dockerfile(text, &given, None, "mark=1").map_err(|error| error.message().to_owned())
    }

    fn names(plan: &DockerfilePlan) -> Vec<String> {
        plan.bases.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn dockerfile_is_written_anew_with_whole_names_and_a_label_for_each_base() {
        let text = "\u{feff}# syntax=x\n# escape=\\\nARG COLOR=blue\nARG V=3.12\n\n\
                    from --platform=$BUILDPLATFORM python:${V} as Build\r\n\
                    RUN one && \\\n# a remark\n\n  two \\\n  three\n\
                    COPY --chown=1:1 --from=registry.example.com/a/b /x /y\n\
                    FROM build\nCOPY --from=Build /x /\nCOPY --from=0 /x /\nADD a b\nONBUILD RUN x\n\
                    FROM img-$COLOR\nENTRYPOINT [\"/x\"]";
        let plan = plan(text).unwrap();
        assert_eq!(
            plan.text,
            "# escape=\\\nARG COLOR=blue\nARG V=3.12\nFROM python:3.12 AS build\nLABEL mark=1\n\
             RUN one &&   two   three\nCOPY --chown=1:1 --from=registry.example.com/a/b:latest /x /y\nFROM build\n\
             COPY --from=0 /x /\nCOPY --from=0 /x /\nADD a b\nONBUILD RUN x\nFROM img-red:latest\nLABEL mark=1\n\
             ENTRYPOINT [\"/x\"]\n"
        );
        assert_eq!(
            names(&plan),
            ["python:3.12", "registry.example.com/a/b:latest", "img-red:latest"]
        );
        assert_eq!(plan.args, ["COLOR", "V"]);
    }

    #[test]
    fn images_and_addresses_are_not_reached_by_other_ways_of_writing_them() {
        for (text, why) in [
            ("FROM a\nCOPY --from=$X / /", "without variables"),
            ("FROM a\nCOPY --fr\"om\"=deadbeef / /", "without quotes"),
            ("FROM a\nCOPY --chown=\"x y\" --from=b / /", "without quotes"),
            ("FROM a\nCOPY --FROM=b / /", "write --from=NAME"),
            ("FROM a AS b\nCOPY --from=0 / /", "no stage before this one"),
            ("FROM ${X:-deadbeef}", "name the image plainly"),
            ("ARG X=dead\nARG Y=$X\nFROM $Y", "name the image plainly"),
            ("FROM a\nARG Y=b\nFROM $Y", "name the image plainly"),
            ("FROM sha256:0a0a", "Invalid image"),
            ("FROM a\nADD http://127.0.0.1/ /", "ADD takes files"),
            ("FROM a\nADD $U /", "ADD takes files"),
            ("FROM a\nADD [\"http:\\u002f/x\", \"/\"]", "ADD takes files"),
            ("FROM a\nADD ht\"tp\"://x /", "ADD takes files"),
            ("FROM a\nONBUILD COPY --from=b / /", "ONBUILD takes no"),
            ("FROM a\nONBUILD ADD http://x /", "ONBUILD takes no"),
            ("FROM a\nRUN --mount=from=b x", "BuildKit"),
            ("FROM a\nRUN <<EOF\nx\nEOF", "BuildKit"),
            ("FROM a\nRUN x\\\\\nCOPY --from=b / /", "twice"),
            ("# escape=`\nFROM a\nRUN x` `\n", "ends with `"),
            ("RUN x", "the first instruction is FROM"),
            ("# nothing", "has no FROM"),
            ("FROM a\nRUN \u{b}x", "control characters"),
            ("FROM a AS 0a", "the name of a stage"),
        ] {
            let refused = plan(text).unwrap_err();
            assert!(refused.contains(why), "{text:?}: {refused}");
        }
        // A stage is known once it is finished: before that its name means an image.
        let own = plan("FROM a AS deadbeef\nCOPY --from=deadbeef / /").unwrap();
        assert_eq!(names(&own), ["a:latest", "deadbeef:latest"]);
        assert!(own.text.contains("COPY --from=deadbeef:latest / /"));
        let plain = plan("# escape=`\nFROM a\nRUN one `\n  two\\\n").unwrap();
        assert!(plain.text.ends_with("RUN one   two\\\n"), "{}", plain.text);
    }

    #[test]
    fn target_is_a_stage_of_the_dockerfile() {
        let (none, text) = (BTreeMap::new(), "FROM a AS test\nFROM b");
        assert!(plan_dockerfile(text, &none, Some("Test"), "m=1").is_ok());
        let refused = plan_dockerfile(text, &none, Some("prod"), "m=1").unwrap_err();
        assert!(
            refused.message().contains("no stage named"),
            "{}",
            refused.message()
        );
    }

    #[test]
    fn triggers_that_name_images_or_addresses_are_found() {
        for fine in ["RUN x", "COPY . /app", "env A=b"] {
            assert!(is_harmless_trigger(fine), "{fine}");
        }
        for bad in [
            "COPY --from=a / /",
            "add http://x /",
            "FROM a",
            "COPY --chown=1 . /",
            "ONBUILD RUN x",
        ] {
            assert!(!is_harmless_trigger(bad), "{bad}");
        }
    }
}
