//! Points in time as they stand in signed bodies: whole milliseconds, UTC.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted (POSIX).
///
/// Shown in RFC 3339, in UTC. Read from RFC 3339 or from a date alone (its first instant in UTC);
/// what is read is within the years that RFC 3339 can write, 0000 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// 0000-01-01T00:00:00Z and 10000-01-01T00:00:00Z, in Unix milliseconds.
const YEARS: std::ops::Range<i64> = -62_167_219_200_000..253_402_300_800_000;

impl Timestamp {
    /// From Unix milliseconds.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Unix milliseconds.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// Later by `duration` (its whole milliseconds); `None` beyond the range of `i64`.
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        let ms = i64::try_from(duration.as_millis()).ok()?;
        self.0.checked_add(ms).map(Self)
    }

    /// Earlier by `duration` (its whole milliseconds); `None` beyond the range of `i64`.
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        let ms = i64::try_from(duration.as_millis()).ok()?;
        self.0.checked_sub(ms).map(Self)
    }

    /// Later by `duration`, or the last representable instant.
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self(i64::MAX))
    }

    /// Earlier by `duration`, or the first representable instant.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        self.checked_sub(duration).unwrap_or(Self(i64::MIN))
    }

    /// Time since `earlier`; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        let ms = i128::from(self.0) - i128::from(earlier.0);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    /// The date in UTC, `2016-01-31`; for file and directory names.
    pub fn date(self) -> String {
        self.to_string().chars().take_while(|&c| c != 'T').collect()
    }
}

/// A text that is neither RFC 3339 nor a date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no time: write 2016-01-31 or 2016-01-31T08:00:00Z")]
pub struct TimestampError {
    /// The text, cut at 80 characters.
    pub text: String,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let refuse = || TimestampError {
            text: text.chars().take(80).collect(),
        };
        // A date alone has ten characters.
        let midnight = if text.len() == 10 { "T00:00:00Z" } else { "" };
        let text = format!("{text}{midnight}");
        let time: jiff::Timestamp = text.parse().map_err(|_| refuse())?;
        let ms = time.as_millisecond();
        match YEARS.contains(&ms) {
            true => Ok(Self(ms)),
            false => Err(refuse()),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_first_instant_in_utc() {
        let start: Timestamp = "2016-01-01".parse().unwrap();
        assert_eq!(start.as_ms(), 1_451_606_400_000);
        assert_eq!(start.to_string(), "2016-01-01T00:00:00Z");
        assert_eq!(start.date(), "2016-01-01");
    }

    #[test]
    fn an_rfc_3339_time_keeps_its_milliseconds() {
        let time: Timestamp = "2016-01-31T08:00:00.250+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2016-01-31T07:00:00.25Z");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2016",
            "2016-13-01",
            "31/01/2016",
            "2016-01-01T00:00:00",
            "demain",
            // Years that RFC 3339 cannot write, also where an offset leads to them.
            "-000016-01-31T01:00:00Z",
            "0000-01-01T00:00:00+00:01",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn arithmetic_ends_at_the_range() {
        let last = Timestamp::from_ms(i64::MAX);
        assert_eq!(last.checked_add(Duration::from_millis(1)), None);
        assert_eq!(
            Timestamp::from_ms(5).since(Timestamp::from_ms(2)),
            Duration::from_millis(3)
        );
        assert_eq!(
            Timestamp::from_ms(2).since(Timestamp::from_ms(5)),
            Duration::ZERO
        );
        assert_eq!(
            Timestamp::from_ms(i64::MAX).to_string(),
            "9223372036854775807 ms"
        );
    }
}
