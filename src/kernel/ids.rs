//! Typed ids. Rows have UUIDv7 ids (they sort by time); events have 24 hexadecimal digits, because clients
//! decode them as a BSON ObjectID (contract/modern 7.1).

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::kernel::error::Error;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema, serde::Serialize,
            serde::Deserialize, sqlx::Type,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Generates a new id; it sorts after all earlier ones.
            #[expect(clippy::new_without_default, reason = "a default id would be a lie")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| Error::invalid("This is not a valid id."))
            }
        }
    };
}

id!(
    /// A user.
    UserId
);
id!(
    /// An app, through all its names and addresses.
    AppId
);
id!(
    /// A job, through all its names.
    JobId
);
id!(
    /// A service.
    ServiceId
);
id!(
    /// An instance of a service.
    InstanceId
);
id!(
    /// The bind of one instance to one app.
    BindId
);
id!(
    /// A volume, through all its names.
    VolumeId
);
id!(
    /// A saga: a durable operation.
    SagaId
);
id!(
    /// The row of a bearer token; not the token.
    TokenId
);
id!(
    /// A team token, through all its values.
    TeamTokenId
);
id!(
    /// A webhook.
    WebhookId
);
id!(
    /// A group of an outside login.
    GroupId
);
id!(
    /// One run of the Tancho process: the holder of leases.
    ReplicaId
);

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $malformed:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema, serde::Serialize,
            serde::Deserialize, sqlx::Type,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(String);

        impl $name {
            /// Generates a new id.
            #[expect(clippy::new_without_default, reason = "a default id would be a lie")]
            pub fn new() -> Self {
                Self(new_hex_id())
            }

            /// Returns the digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                if text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    Ok(Self(text.to_ascii_lowercase()))
                } else {
                    Err(Error::invalid($malformed))
                }
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
    };
}

hex_id!(
    /// An event: 24 lower-case hexadecimal digits, the first eight being seconds since 1970.
    EventId,
    "An event id has 24 hexadecimal digits."
);
hex_id!(
    /// An event block; its digits are those of an event id.
    EventBlockId,
    "The id of an event block has 24 hexadecimal digits."
);

fn new_hex_id() -> String {
    let bytes = *Uuid::now_v7().as_bytes();
    let random = *Uuid::new_v4().as_bytes();
    let millis = u64::from_be_bytes([0, 0, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]);
    let seconds = u32::try_from(millis / 1000).unwrap_or(u32::MAX);
    format!("{seconds:08x}{}", hex::encode(&random[8..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_have_24_digits_and_differ() {
        let (a, b) = (EventId::new(), EventId::new());
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 24);
        assert_eq!(a.as_str().parse::<EventId>().unwrap(), a);
        assert!("xyz".parse::<EventId>().is_err());
    }
}
