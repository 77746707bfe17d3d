//! Amounts and times as people read them.

use std::fmt::{self, Display};
use std::time::Duration;

/// A number of bytes, in decimal units ("1.2 MB").
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
        if self.0 < 1_000 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut amount = self.0 as f64 / 1_000.0;
        let mut unit = 0;
        while amount >= 999.95 && unit + 1 < UNITS.len() {
            amount /= 1_000.0;
            unit += 1;
        }
        f.pad(&format!("{amount:.1} {}", UNITS[unit]))
    }
}

/// A time span ("850 ms", "3.2 s", "2 h 05 min").
#[derive(Debug, Clone, Copy)]
pub struct Elapsed(pub Duration);

impl Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let minutes = self.0.as_secs() / 60;
        match ms {
            0..1_000 => write!(f, "{ms} ms"),
            1_000..120_000 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            120_000..7_200_000 => write!(f, "{minutes} min"),
            _ => write!(f, "{} h {:02} min", minutes / 60, minutes % 60),
        }
    }
}

/// A moment in Unix milliseconds, in UTC ("2016-12-31 02:14:05Z"); 0 is "-".
#[derive(Debug, Clone, Copy)]
pub struct When(pub i64);

impl Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) if self.0 != 0 => f.pad(&at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()),
            _ => f.pad("-"),
        }
    }
}

/// Bytes as lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The first 12 hex digits of an id, the shortest form in which people see it.
pub fn short(id: &[u8]) -> String {
    hex(&id[..id.len().min(6)])
}

/// Foreign text on one line: what would begin another one becomes `·`.
pub fn one_line(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '·' } else { c };
    text.chars().map(printable).collect()
}

/// The wall clock, in Unix milliseconds.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        assert_eq!(Bytes(999).to_string(), "999 B");
        assert_eq!(Bytes(1_500).to_string(), "1.5 kB");
        assert_eq!(Bytes(999_950).to_string(), "1.0 MB");
        assert_eq!(Bytes(68_719_476_736).to_string(), "68.7 GB");
        assert_eq!(Elapsed(Duration::from_millis(850)).to_string(), "850 ms");
        assert_eq!(Elapsed(Duration::from_millis(3_249)).to_string(), "3.2 s");
        assert_eq!(
            Elapsed(Duration::from_secs(7_500)).to_string(),
            "2 h 05 min"
        );
        assert_eq!(When(0).to_string(), "-");
        assert_eq!(When(1_483_150_445_000).to_string(), "2016-12-31 02:14:05Z");
        assert_eq!(short(&[0xab; 32]), "abababababab");
        assert_eq!(one_line("reçu\n  forged \u{1b}[2J"), "reçu·  forged ·[2J");
    }
}
