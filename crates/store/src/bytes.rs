//! Amounts of memory as people write them: `24G` is 24 GiB, as in cgroups and `free -h`; and speeds of drives: `7G` is 7 GB/s,
//! as on their boxes.

use std::fmt;

/// Bytes, shown with a binary unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.iter().find(|(_, shift)| self.0 >> shift > 0) {
            Some((unit, shift)) => {
                let value = self.0 as f64 / (1u64 << shift) as f64;
                let decimals = if value < 10.0 { 2 } else { 1 };
                write!(f, "{value:.decimals$} {unit}")
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let problem =
            || format!("{text:?} is no amount of memory: give bytes, or a number with K, M, G or T, as in 24G or 512M");
        let (number, unit) = number_and_unit(text).ok_or_else(problem)?;
        let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        let power = power_of(unit).ok_or_else(problem)?;
        let bytes = number * 1024f64.powi(power);
        if bytes.is_finite() && bytes < (1u64 << 50) as f64 { Ok(Bytes(bytes as u64)) } else { Err(problem()) }
    }
}

/// Bytes a second, with decimal units.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let problem = || {
            format!("{text:?} is no speed of a drive: give bytes a second, or a number with M or G, as in 2.5G or 900M")
        };
        let (number, unit) = number_and_unit(text).ok_or_else(problem)?;
        let unit = unit.strip_suffix("/S").unwrap_or(&unit);
        let power = power_of(unit.strip_suffix('B').unwrap_or(unit)).ok_or_else(problem)?;
        let rate = number * 1000f64.powi(power);
        if rate > 0.0 && rate < 1e15 { Ok(Rate(rate)) } else { Err(problem()) }
    }
}

/// `2.5 gB` as 2.5 and `GB`.
fn number_and_unit(text: &str) -> Option<(f64, String)> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    Some((number.parse().ok()?, unit.trim().to_ascii_uppercase()))
}

/// Thousands, or 1024s, that a letter multiplies by.
fn power_of(unit: &str) -> Option<i32> {
    ["", "K", "M", "G", "T"].iter().position(|&known| known == unit).map(|power| power as i32)
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Rate};

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("24G", 24 << 30),
            ("512M", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("4096", 4096),
            ("8kb", 8192),
            ("2 T", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "G", "-1", "12X", "1e99T", "inf", "nan", "1..2M"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn speeds_are_decimal() {
        for (text, rate) in [("7G", 7e9), ("2.5GB/s", 2.5e9), ("900 MB", 9e8), ("1250000", 1.25e6)] {
            assert_eq!(text.parse(), Ok(Rate(rate)), "{text}");
        }
        for text in ["", "0", "G", "-1G", "7GiB/s", "7G/h", "inf"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_are_shown_with_a_unit() {
        assert_eq!(Bytes(512).to_string(), "512 B");
        assert_eq!(Bytes(24 << 30).to_string(), "24.0 GiB");
        assert_eq!(Bytes(1_600_000_000).to_string(), "1.49 GiB");
    }
}
