//! Finds the reason of a failed step: of all output lines, the one that names the cause.
//!
//! The last line rarely does: pip ends with "hint: See above", npm with the path of its log. Each line gets a
//! rank according to the conventions of its tool, and the line with the highest rank wins.

use std::sync::LazyLock;

use regex::Regex;

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 300;
/// How much of a line is searched, in bytes.
const MAX_SEARCHED_BYTES: usize = 1024;

/// Which one of several lines with the same rank is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TieBreak {
    First,
    Last,
}

/// How much a line tells about the cause, in ascending order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LineRank {
    /// Says only that something before it failed, or where a log is.
    Noise,
    Plain,
    /// Contains "error" or a similar word.
    Suspect,
    /// A tool's own error message.
    Tool,
    /// An exception, or a dependency that cannot be installed.
    Cause,
    /// An error with a position in a file of the app.
    SourceLocation,
    /// A message of the platform's own script.
    Platform,
}

/// Patterns of lines; the first match decides. The reason is its group `m`, else the whole line.
const RULES: &[(LineRank, TieBreak, &str)] = &[
    (LineRank::Platform, TieBreak::Last, r"^!     (?<m>.+)"),
    // pip and its build backends.
    (
        LineRank::Noise,
        TieBreak::Last,
        r"(?i)^(hint: |note: |\[notice\]|\[end of output\])",
    ),
    (
        LineRank::Noise,
        TieBreak::Last,
        r"(?i)^error: (subprocess-exited|metadata-generation|failed-wheel-build|exception:|resolutionimpossible|failed (building|to build)|could not build wheels)",
    ),
    // npm, pnpm, yarn, bun, make.
    (
        LineRank::Noise,
        TieBreak::Last,
        r"^npm (notice|warn|WARN)|^npm (error|ERR!)\s*\d*$",
    ),
    (
        LineRank::Noise,
        TieBreak::Last,
        r"^npm (error|ERR!) (A complete log|path |command |code |errno |syscall |Lifecycle script |gyp (info|http))",
    ),
    (
        LineRank::Noise,
        TieBreak::Last,
        r"ELIFECYCLE|^error Command failed|^info Visit|^error: script .+ exited with|^make(\[\d+\])?: \*\*\*",
    ),
    // Progress messages of Go.
    (
        LineRank::Noise,
        TieBreak::Last,
        r"^go: (downloading|finding|extracting|upgraded|added) ",
    ),
    // Parts of a stack trace.
    (
        LineRank::Noise,
        TieBreak::Last,
        r"^at .+:\d+\)?$|^\^+$|^Node\.js v\d",
    ),
    (
        LineRank::SourceLocation,
        TieBreak::First,
        r"^\S+\.go:\d+(:\d+)?: |^go\.(mod|work):\d+: |:\d+:(\d+:)? (fatal )?error: |\): error TS\d+: |:\d+ - error |heap out of memory",
    ),
    (
        LineRank::Cause,
        TieBreak::Last,
        r"^([A-Za-z_]\w*\.)*([A-Z]\w*)?(Error|Exception|Exit|Interrupt)( \[\w+\])?(: .+)?$",
    ),
    (
        LineRank::Cause,
        TieBreak::First,
        r"^✘ \[ERROR\] |failed to resolve (import|entry)|^╰─▶ Because |^npm (error|ERR!) +(?<m>peer(Optional)? .+)",
    ),
    (
        LineRank::Tool,
        TieBreak::First,
        r"^npm (error|ERR!) +(?<m>.+)|ERR_PNPM_\w+|^➤ YN00(01|09|16|18|28|35|82): .+|^error .+",
    ),
    (
        LineRank::Tool,
        TieBreak::First,
        r": (command )?not found$|^go: .+|^fatal: |poetry\.lock was last generated",
    ),
    (LineRank::Tool, TieBreak::Last, r"^ERROR: .+"),
    (LineRank::Tool, TieBreak::First, r"^error: .+|^ERROR in .+|^× .+"),
    (
        LineRank::Suspect,
        TieBreak::First,
        r"(?i)\berror:|\bfailed\b|\bcannot\b|: no such file",
    ),
];

static COMPILED_RULES: LazyLock<Vec<(LineRank, TieBreak, Regex)>> = LazyLock::new(|| {
    RULES
        .iter()
        .map(|(rank, keep, pattern)| (*rank, *keep, Regex::new(pattern).expect("the patterns are fixed")))
        .collect()
});

/// The best line so far of one step.
#[derive(Default)]
pub(super) struct FailureReason {
    best: Option<(LineRank, String)>,
}

impl FailureReason {
    /// Ranks a line, which must be without colours and secrets.
    pub(super) fn push_line(&mut self, line: &str) {
        // Strips the lines with which tools draw trees of messages.
        let line = line
            .trim_end()
            .trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '│' | '|'));
        if line.is_empty() {
            return;
        }
        let (rank, keep, text) = rank_line(&line[..line.floor_char_boundary(MAX_SEARCHED_BYTES)]);
        let replaces = match &self.best {
            None => true,
            Some((best, _)) => rank > *best || (rank == *best && keep == TieBreak::Last),
        };
        if replaces {
            self.best = Some((rank, text.trim().chars().take(MAX_REASON_CHARS).collect()));
        }
    }

    /// Returns the line that names the cause, else the last line that was not empty.
    pub(super) fn get(&self) -> Option<String> {
        self.best.as_ref().map(|(_, line)| line.clone())
    }
}

fn rank_line(line: &str) -> (LineRank, TieBreak, &str) {
    for (rank, keep, pattern) in COMPILED_RULES.iter() {
        if let Some(found) = pattern.captures(line) {
            return (*rank, *keep, found.name("m").map_or(line, |m| m.as_str()));
        }
    }
    (LineRank::Plain, TieBreak::Last, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(lines: &str) -> String {
        let mut reason = FailureReason::default();
        lines.lines().for_each(|line| reason.push_line(line));
        reason.get().unwrap_or_default()
    }

    #[test]
    fn failure_reason_is_the_line_that_names_the_cause() {
        for (lines, want) in [
            ("", ""),
            ("one\ntwo\n\n", "two"),
            (
                "Collecting nope\nERROR: Could not find a version that satisfies the requirement nope==1 (from versions: none)\n\
                 ERROR: No matching distribution found for nope==1\n\n[notice] A new release of pip is available",
                "ERROR: No matching distribution found for nope==1",
            ),
            (
                "  error: subprocess-exited-with-error\n  × Getting requirements to build wheel did not run successfully.\n  │ exit code: 1\n\
                 \x20 ╰─> [2 lines of output]\n      Traceback (most recent call last):\n      ModuleNotFoundError: No module named 'numpy'\n\
                 \x20     [end of output]\n  note: This error originates from a subprocess\nERROR: Failed to build 'x' when getting requirements\nhint: See above for details.",
                "ModuleNotFoundError: No module named 'numpy'",
            ),
            (
                "      src/x.c:1:10: fatal error: libpq-fe.h: No such file or directory\n      error: command '/usr/bin/gcc' failed with exit code 1\nERROR: Failed building wheel for x",
                "src/x.c:1:10: fatal error: libpq-fe.h: No such file or directory",
            ),
            (
                "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.\nERROR: ResolutionImpossible: for help visit https://example.com",
                "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.",
            ),
            (
                "npm error code E404\nnpm error 404 Not Found - GET https://r.example/nope - Not found\nnpm error 404\nnpm error A complete log of this run can be found in: /x/y.log",
                "404 Not Found - GET https://r.example/nope - Not found",
            ),
            (
                "npm error code ERESOLVE\nnpm error ERESOLVE unable to resolve dependency tree\nnpm error\nnpm error Could not resolve dependency:\nnpm error peer react@\"^17\" from old@1.0.0\nnpm error A complete log of this run",
                "peer react@\"^17\" from old@1.0.0",
            ),
            (
                "npm error code EUSAGE\nnpm error\nnpm error `npm ci` can only install packages when your package.json and package-lock.json are in sync.\nnpm error Missing: ms@2.1.3 from lock file",
                "`npm ci` can only install packages when your package.json and package-lock.json are in sync.",
            ),
            (
                "src/a.ts(1,5): error TS2322: Type 'string' is not assignable to type 'number'.\nsrc/b.ts(1,5): error TS1: x\nnpm error Lifecycle script `build` failed with error:\nnpm error code 2",
                "src/a.ts(1,5): error TS2322: Type 'string' is not assignable to type 'number'.",
            ),
            (
                "node:internal/modules/cjs/loader:1215\n  throw err;\n  ^\n\nError: Cannot find module 'vite'\n    at Module._resolveFilename (node:internal/modules/cjs/loader:1212:15)\n\nNode.js v20.20.2",
                "Error: Cannot find module 'vite'",
            ),
            (
                " ERR_PNPM_NO_MATCHING_VERSION  No matching version found for ms@99\n\nThis error happened while installing a direct dependency",
                "ERR_PNPM_NO_MATCHING_VERSION  No matching version found for ms@99",
            ),
            (
                "yarn install v1.22\nerror Couldn't find package \"nope\" on the \"npm\" registry.\ninfo Visit https://yarnpkg.com/en/docs/cli/install for documentation about this command.",
                "error Couldn't find package \"nope\" on the \"npm\" registry.",
            ),
            (
                "$ false\nThe schema of x is wrong\nerror Command failed with exit code 1.\ninfo Visit https://yarnpkg.com",
                "The schema of x is wrong",
            ),
            (
                "➤ YN0000: · Yarn 4\n➤ YN0028: │ The lockfile would have been modified by this install\n➤ YN0000: · Failed with errors in 1s",
                "➤ YN0028: │ The lockfile would have been modified by this install",
            ),
            (
                "go: downloading golang.org/x/text v0.1.0\n# example.com/hello\n./main.go:3:15: undefined: x\n./main.go:4:15: undefined: y",
                "./main.go:3:15: undefined: x",
            ),
            (
                "go: downloading example.com/private v1.0.0\ngo: example.com/private@v1.0.0: reading https://p.example: 404 Not Found\n\tserver response: not found",
                "go: example.com/private@v1.0.0: reading https://p.example: 404 Not Found",
            ),
            (
                "  × No solution found when resolving dependencies:\n  ╰─▶ Because nope was not found in the package registry and your project depends on nope, we can conclude",
                "╰─▶ Because nope was not found in the package registry and your project depends on nope, we can conclude",
            ),
            (
                "/bin/sh: 1: frobnicate: not found\nmake: *** [Makefile:2: all] Error 127",
                "/bin/sh: 1: frobnicate: not found",
            ),
            (
                "ERROR: something\n !     there is no go.mod at the root of the app\nlast",
                "there is no go.mod at the root of the app",
            ),
            (
                "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory\n 1: 0xb9 node::Abort()",
                "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            ),
        ] {
            assert_eq!(reason(lines), want, "of\n{lines}");
        }
    }

    #[test]
    fn reason_of_an_overlong_line_is_truncated() {
        let long = format!("ERROR: {}", "ä".repeat(100_000));
        assert_eq!(reason(&long).chars().count(), MAX_REASON_CHARS);
    }
}
