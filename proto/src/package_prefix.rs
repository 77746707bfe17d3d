//! What a person writes to name a package: its id, or enough of its beginning.

use crate::id::{DIGEST_LEN, PackageId, SHORT_ID_DIGITS};

/// Ids that an error names at most.
const NAMED_MAX: usize = 3;

/// The beginning of a package id, 12 to 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagePrefix(String);

/// Why a text names no package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Too few digits: another package may begin alike one day.
    #[error("{0:?} is too short: write at least 12 digits of the package id")]
    Short(String),
    /// Other characters, or more of them than an id has.
    #[error("{0:?} is no package id: 12 to 64 of the digits 0-9 and a-f")]
    Digits(String),
    /// Nothing begins like this.
    #[error("no package {0} is known")]
    Unknown(String),
    /// More than one package begins like this.
    #[error("several packages begin with {prefix}: {}; write more digits", .found.join(", "))]
    Ambiguous {
        /// What was written.
        prefix: String,
        /// Some of them.
        found: Vec<String>,
    },
}

impl PackagePrefix {
    /// Reads what a person wrote; upper case and blanks around it do no harm.
    ///
    /// # Errors
    /// [`PrefixError::Short`] and [`PrefixError::Digits`].
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        let digits = text.trim().to_ascii_lowercase();
        let shown = || digits.chars().take(80).collect::<String>();
        if digits.len() > 2 * DIGEST_LEN || digits.chars().any(|c| !c.is_ascii_hexdigit()) {
            return Err(PrefixError::Digits(shown()));
        }
        match digits.len() < SHORT_ID_DIGITS {
            true => Err(PrefixError::Short(shown())),
            false => Ok(Self(digits)),
        }
    }

    /// The digits, in lower case.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// The id, when all of it was written.
    pub fn whole(&self) -> Option<PackageId> {
        self.0.parse().ok()
    }

    /// Whether a package begins like this.
    pub fn matches(&self, package: &PackageId) -> bool {
        package.to_string().starts_with(&self.0)
    }

    /// The one package among these that begins like this.
    ///
    /// # Errors
    /// [`PrefixError::Unknown`] and [`PrefixError::Ambiguous`].
    pub fn only(
        &self,
        packages: impl IntoIterator<Item = PackageId>,
    ) -> Result<PackageId, PrefixError> {
        let mut found: Vec<PackageId> =
            packages.into_iter().filter(|id| self.matches(id)).collect();
        found.sort();
        found.dedup();
        match found.as_slice() {
            [package] => Ok(*package),
            [] => Err(PrefixError::Unknown(self.0.clone())),
            several => Err(PrefixError::Ambiguous {
                prefix: self.0.clone(),
                found: several
                    .iter()
                    .take(NAMED_MAX)
                    .map(ToString::to_string)
                    .collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn alike(last: u8) -> PackageId {
        let mut digest = [0xab; DIGEST_LEN];
        digest[DIGEST_LEN - 1] = last;
        PackageId(Digest(digest))
    }

    #[test]
    fn twelve_digits_name_a_package_when_no_other_begins_alike() {
        let other = PackageId(Digest::of(b"other"));
        let prefix = PackagePrefix::parse(" ABABABABABAB ").unwrap();
        assert_eq!(prefix.only([other, alike(1), alike(1)]), Ok(alike(1)));
        assert_eq!(prefix.whole(), None);
        let whole = PackagePrefix::parse(&other.to_string()).unwrap();
        assert_eq!(whole.whole(), Some(other));
    }

    #[test]
    fn an_ambiguous_beginning_names_the_packages_that_it_may_mean() {
        let prefix = PackagePrefix::parse("abababababab").unwrap();
        let error = prefix.only([alike(2), alike(1)]).unwrap_err().to_string();
        let (one, two) = (alike(1).to_string(), alike(2).to_string());
        assert!(error.contains(&one) && error.contains(&two), "{error}");
        assert!(error.ends_with("write more digits"), "{error}");
        let unknown = PrefixError::Unknown("abababababab".into());
        assert_eq!(prefix.only([]), Err(unknown));
    }

    #[test]
    fn what_cannot_be_an_id_is_told_apart_from_what_is_too_short() {
        for text in ["", "ab", "ababababab", "a54daf4fe73"] {
            let error = PackagePrefix::parse(text).unwrap_err();
            assert_eq!(error, PrefixError::Short(text.into()));
        }
        let long = "a".repeat(65);
        for text in ["zzzzzzzzzzzz", "é", &long] {
            let error = PackagePrefix::parse(text).unwrap_err();
            assert!(matches!(error, PrefixError::Digits(_)), "{text}");
        }
    }
}
