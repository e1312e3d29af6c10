//! One accepted update of a document, as it is logged and told.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::ids::{ClientId, Sequence};

/// Who caused a change. An argument of every change, never a variable beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A client that gave its name. It is not told its own updates.
    Client(ClientId),
    /// A writer that gave no name: everybody is told.
    Anonymous,
}

impl Origin {
    pub fn client(&self) -> Option<&ClientId> {
        match self {
            Self::Client(client) => Some(client),
            Self::Anonymous => None,
        }
    }
}

impl From<Option<ClientId>> for Origin {
    fn from(client: Option<ClientId>) -> Self {
        client.map_or(Self::Anonymous, Self::Client)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, up to the end of the year 9999. Shown as RFC 3339.
/// Never used for ordering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest that jiff takes: it is in the year 9999 in every time zone.
    const MILLISECONDS_MAX: i64 = 253_402_207_200_000;

    pub fn from_milliseconds(milliseconds: i64) -> Self {
        Self(milliseconds.clamp(0, Self::MILLISECONDS_MAX))
    }

    pub fn earlier_by(self, time: std::time::Duration) -> Self {
        let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self::from_milliseconds(self.0.saturating_sub(milliseconds))
    }

    pub fn milliseconds(self) -> i64 {
        self.0
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let milliseconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Self::from_milliseconds(i64::try_from(milliseconds).unwrap_or(i64::MAX))
    }
}

impl std::str::FromStr for Timestamp {
    type Err = ();

    /// Takes RFC 3339.
    fn from_str(text: &str) -> Result<Self, ()> {
        let time: jiff::Timestamp = text.parse().map_err(|_| ())?;
        Ok(Self::from_milliseconds(time.as_millisecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0)
            .expect("the constructors keep the time within the years 1970 to 9999");
        write!(formatter, "{time:.3}")
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One accepted update: a row of the log, and what subscribers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub sequence: Sequence,
    pub origin: Origin,
    /// Who was logged in, from the token and from nowhere else.
    pub user: Option<String>,
    pub time: Timestamp,
    /// Yjs encoding v1, byte for byte as it was posted.
    pub update: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_in_utc() {
        assert_eq!(Timestamp::from_milliseconds(1_700_000_000_120).to_string(), "2023-11-14T22:13:20.120Z");
        assert!(Timestamp::from_milliseconds(i64::MAX).to_string().starts_with("9999-12-"));
    }
}
