//! Validated names. A value of these types has passed its rule, so later code need not check again and may
//! build paths and host names from it.
//!
//! The rules are those of contract/classic part 3 (3.1, 3.4) and 1.12, or today's tsuru server where that
//! accepts more; lengths are in characters.

use std::fmt;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

/// Declares a name: a string that passes `rule`, which returns what is wrong with it.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema, serde::Serialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(String);

        impl $name {
            /// Parses a name. Errors: `Invalid` with a sentence that states the rule.
            pub fn parse(text: &str) -> Result<Self, Error> {
                let rule: fn(&str) -> Result<(), &'static str> = $rule;
                match rule(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(why) => Err(Error::invalid(format!(
                        "{:?} is not a valid {}: {why}.",
                        quote_excerpt(text),
                        $what
                    ))),
                }
            }

            /// Returns the name as a string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::parse(text)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::parse(&text).map_err(|error| serde::de::Error::custom(error.message()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// An app: also a DNS label and a folder name.
    AppName,
    "app name",
    |text| {
        if text == "tsr" {
            return Err("it is reserved");
        }
        check_dns_label(text)
    }
);

name!(
    /// A job. The rule is that of apps, whose machinery builds and binds jobs.
    JobName,
    "job name",
    |text| AppName::parse(text).map(drop).map_err(|_| DNS_LABEL_RULE)
);

name!(
    /// A team. Spaces are allowed (classic 3.1); names that are path segments of the API are not.
    TeamName,
    "team name",
    |text| {
        if ["doc", "env", "units", "cname", "plans"].contains(&text) {
            return Err("it is reserved");
        }
        let rest = |c: char| c.is_ascii_alphanumeric() || "-@_.+ ".contains(c);
        if (2..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && !text.ends_with(' ')
            && text.chars().all(rest)
        {
            Ok(())
        } else {
            Err("use 2 to 63 letters, digits, spaces and - @ _ . +, a letter first")
        }
    }
);

name!(
    /// A service: the `id` of its manifest.
    ServiceName,
    "service id",
    |text| {
        if ["instances", "proxy", "doc"].contains(&text) {
            return Err("it is reserved");
        }
        is_plain_name(text, 1, "-_.")
            .then_some(())
            .ok_or("use 1 to 63 letters, digits and - _ ., a letter first")
    }
);

name!(
    /// An instance of a service.
    InstanceName,
    "service instance name",
    |text| {
        is_plain_name(text, 2, "-_")
            .then_some(())
            .ok_or("use 2 to 63 letters, digits and - _, a letter first")
    }
);

name!(
    /// A pool: where units run.
    PoolName,
    "pool name",
    check_dns_label
);

name!(
    /// A plan: the resources a unit may use.
    PlanName,
    "plan name",
    |text| {
        is_plain_name(text, 1, "-_.")
            .then_some(())
            .ok_or("use 1 to 63 letters, digits and - _ ., a letter first")
    }
);

name!(
    /// A platform: how source becomes a version.
    PlatformName,
    "platform name",
    |text| {
        (!text.is_empty()
            && text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.+".contains(c))
            && !text.contains(".."))
        .then_some(())
        .ok_or("use 1 to 63 lower-case letters, digits and - . +, a letter first")
    }
);

name!(
    /// A router: what forwards requests to units.
    RouterName,
    "router name",
    |text| {
        is_plain_name(text, 1, "-_.")
            .then_some(())
            .ok_or("use 1 to 63 letters, digits and - _ ., a letter first")
    }
);

name!(
    /// A cluster: where a provisioner runs units that it places by itself.
    ClusterName,
    "cluster name",
    check_dns_label
);

name!(
    /// A volume.
    VolumeName,
    "volume name",
    check_dns_label
);

name!(
    /// A role.
    RoleName,
    "role name",
    |text| {
        is_plain_name(text, 1, "-_.")
            .then_some(())
            .ok_or("use 1 to 63 letters, digits and - _ ., a letter first")
    }
);

name!(
    /// A team token. Clients tell it from a user by the missing `@`, and from a group by the missing `:`.
    TeamTokenName,
    "token id",
    |text| {
        ((1..=80).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)))
        .then_some(())
        .ok_or("use 1 to 80 letters, digits and - _ ., a letter first")
    }
);

name!(
    /// A webhook.
    WebhookName,
    "webhook name",
    |text| {
        is_plain_name(text, 1, "-_.")
            .then_some(())
            .ok_or("use 1 to 63 letters, digits and - _ ., a letter first")
    }
);

name!(
    /// A group of an outside login, as that login names it.
    GroupName,
    "group name",
    |text| {
        ((1..=255).contains(&text.len())
            && text.trim() == text
            && !text.chars().any(char::is_control))
        .then_some(())
        .ok_or("use 1 to 255 printable characters without spaces at the ends")
    }
);

name!(
    /// A process of an app, as named in its Procfile.
    ProcessName,
    "process name",
    |text| {
        ((1..=63).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)))
        .then_some(())
        .ok_or("use 1 to 63 letters, digits, - and _")
    }
);

name!(
    /// A branch of a git repository: what git accepts, restricted to plain characters.
    BranchName,
    "branch name",
    |text| {
        let part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && !part.ends_with('.')
                && !part.ends_with(".lock")
        };
        ((1..=100).contains(&text.len())
            && text != "HEAD"
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
            && !text.contains("..")
            && text.split('/').all(part))
        .then_some(())
        .ok_or("use 1 to 100 letters, digits and - _ . /, such as main")
    }
);

name!(
    /// An environment variable. A dash is allowed, as in tsuru, though a shell cannot name such a variable.
    EnvName,
    "environment variable name",
    |text| {
        ((1..=255).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)))
        .then_some(())
        .ok_or("use 1 to 255 letters, digits, - and _, a letter or _ first")
    }
);

name!(
    /// A host name routed to an app, optionally with a leading `*.`.
    CName,
    "cname",
    |text| {
        let host = text.strip_prefix("*.").unwrap_or(text);
        ((2..=253).contains(&text.len())
            && host.starts_with(|c: char| c.is_ascii_alphanumeric())
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !host.contains("..")
            && !host.ends_with('.'))
        .then_some(())
        .ok_or("use a host name such as www.example.com or *.example.com")
    }
);

name!(
    /// A user's e-mail address, in the narrow form of classic 3.1: no spaces, one `@`, a domain of at least
    /// two labels. Two unequal values may still be spellings of one address: `users` looks the user up, and
    /// from there on the user is identified by id.
    Email,
    "e-mail address",
    |text| {
        let Some((local, domain)) = text.split_once('@') else {
            return Err("use an address such as ana@example.com");
        };
        let labels: Vec<&str> = domain.split('.').collect();
        let label = |l: &&str| {
            !l.is_empty()
                && l.chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        let top = labels.last().is_some_and(|l| {
            l.len() >= 2 && l.chars().all(|c| c.is_ascii_alphabetic())
        });
        (text.len() <= 254
            && !local.is_empty()
            && local.chars().all(|c| (c.is_ascii_graphic() || c.is_alphanumeric()) && c != '/')
            && labels.len() >= 2
            && labels.iter().all(label)
            && top)
            .then_some(())
            .ok_or("use an address such as ana@example.com")
    }
);

const DNS_LABEL_RULE: &str =
    "use 1 to 63 lower-case letters, digits and dashes, a letter first and no dash last";

fn check_dns_label(text: &str) -> Result<(), &'static str> {
    let fits = (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    fits.then_some(()).ok_or(DNS_LABEL_RULE)
}

fn is_plain_name(text: &str, at_least: usize, also: &str) -> bool {
    (at_least..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names_are_dns_labels() {
        for good in ["a", "myapp", "my-app-2", &"a".repeat(63)] {
            assert!(AppName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "1a",
            "-a",
            "a-",
            "a.b",
            "a_b",
            "tsr",
            "../x",
            "a/b",
            "a\n",
            &"a".repeat(64),
        ] {
            assert!(AppName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn email_addresses_need_a_dotted_domain() {
        for good in ["ana@example.com", "a.b+c@x-y.example.org", "Ana@EXAMPLE.Com"] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ana",
            "ana@",
            "@example.com",
            "ana@localhost",
            "ana\0@example.com",
            "ana@example.com\0",
            "ana@exämple.com",
            &format!("{}@example.com", "a".repeat(255)),
            "a b@example.com",
            "a@b@example.com",
            "a@example.c0m",
            "a@.com",
        ] {
            assert!(Email::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn branch_names_are_a_subset_of_what_git_accepts() {
        for good in ["main", "master", "release/1.0", "a_b-c"] {
            assert!(BranchName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", "-x", "a b", "a..b", "a/", "/a", "a//b", "a.lock", "a.", ".a", "a~1", "a:b", "HEAD", "ä",
            "@{1}",
        ] {
            assert!(BranchName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_names_state_their_rule() {
        assert!(TeamName::parse("Team one+2").is_ok());
        assert!(TeamName::parse("doc").is_err());
        assert!(TeamName::parse("x").is_err());
        assert!(ServiceName::parse("some_service").is_ok());
        assert!(ServiceName::parse("instances").is_err());
        assert!(InstanceName::parse("my_nosql").is_ok());
        assert!(InstanceName::parse("a").is_err());
        for good in ["_A1", "A-B", "a-", "x", &"A".repeat(255)] {
            assert!(EnvName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "1A",
            "-A",
            "",
            "A=B",
            "A B",
            "A.B",
            "Ä",
            "A\0",
            "A\n",
            &"A".repeat(256),
        ] {
            assert!(EnvName::parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "1ci",
            "ci@web",
            "group:ci",
            "ci token",
            "ci/one",
            &"c".repeat(81),
        ] {
            assert!(TeamTokenName::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", " devs", "devs\n", "a\0", &"g".repeat(256)] {
            assert!(GroupName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(GroupName::parse("cn=Entwickler/Köln, dc=example").is_ok());
        assert!(CName::parse("*.example.com").is_ok());
        assert!(CName::parse("a..b").is_err());
        let words = PlatformName::parse(&"X".repeat(500)).unwrap_err();
        assert!(words.message().len() < 250, "{words}");
    }
}
