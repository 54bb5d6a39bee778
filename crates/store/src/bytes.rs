//! Amounts of memory as people write them: `24G` is 24 GiB, as in cgroups and `free -h`.

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
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim().to_ascii_uppercase();
        let shift = match unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit) {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(problem()),
        };
        let number: f64 = number.parse().map_err(|_| problem())?;
        let bytes = number * (1u64 << shift) as f64;
        if bytes.is_finite() && bytes < (1u64 << 50) as f64 { Ok(Bytes(bytes as u64)) } else { Err(problem()) }
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

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
    fn amounts_are_shown_with_a_unit() {
        assert_eq!(Bytes(512).to_string(), "512 B");
        assert_eq!(Bytes(24 << 30).to_string(), "24.0 GiB");
        assert_eq!(Bytes(1_600_000_000).to_string(), "1.49 GiB");
    }
}
