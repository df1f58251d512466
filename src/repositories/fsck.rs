//! The object checks on received packs. Old and honest histories have malformed dates, author names and
//! modes, which are harmless: git warns and accepts them. The other checks refuse attacks on those who check
//! out a tree: names such as `.git` and `..`, and submodules whose URLs or names are commands.

/// Harmless faults, by git's names. Git ignores unknown ones with a warning.
const HARMLESS_FAULTS: [&str; 15] = [
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badFilemode",
    "badName",
    "badTagName",
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingTaggerEntry",
    "multipleAuthors",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// The source of objects, which selects the section of git's settings.
#[derive(Clone, Copy, Debug)]
pub(super) enum ObjectSource {
    Push,
    Fetch,
}

/// Returns the settings for a git process that receives objects.
pub(super) fn config_settings(source: ObjectSource) -> Vec<String> {
    let section = match source {
        ObjectSource::Push => "receive",
        ObjectSource::Fetch => "fetch",
    };
    let harmless = HARMLESS_FAULTS
        .iter()
        .map(|fault| format!("{section}.fsck.{fault}=warn"));
    std::iter::once(format!("{section}.fsckObjects=true"))
        .chain(harmless)
        .collect()
}
