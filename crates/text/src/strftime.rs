//! `strftime_now` of chat templates: dates in the C locale, without a time zone.

use std::fmt::Write;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment, taken apart.
struct Moment {
    unix_s: i64,
    year: i64,
    /// 0 is January.
    month: usize,
    /// Of the month, from 1.
    day: i64,
    /// Of the year, from 0.
    year_day: i64,
    /// 0 is Sunday.
    week_day: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

impl Moment {
    fn new(unix_s: i64) -> Moment {
        let (days, second) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
        // Whole cycles of 400 years first, so that the loops below are short whatever the clock says.
        let (mut year, mut year_day) = (1970 + 400 * days.div_euclid(146_097), days.rem_euclid(146_097));
        while year_day >= 365 + i64::from(is_leap(year)) {
            year_day -= 365 + i64::from(is_leap(year));
            year += 1;
        }
        let lengths = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let (mut month, mut day) = (0, year_day);
        for length in lengths {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        Moment {
            unix_s,
            year,
            month,
            day: day + 1,
            year_day,
            week_day: (days + 4).rem_euclid(7) as usize,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// Weeks of the year, 0 before the first day `first` (0 is Sunday) of the year.
    fn week(&self, first: usize) -> i64 {
        (self.year_day + 7 - ((self.week_day + 7 - first) % 7) as i64) / 7
    }

    /// The number of a directive, its width and the letter it is padded with.
    fn number(&self, directive: char) -> Option<(i64, usize, char)> {
        let hour12 = (self.hour + 11) % 12 + 1;
        Some(match directive {
            'd' => (self.day, 2, '0'),
            'e' => (self.day, 2, ' '),
            'H' => (self.hour, 2, '0'),
            'k' => (self.hour, 2, ' '),
            'I' => (hour12, 2, '0'),
            'l' => (hour12, 2, ' '),
            'j' => (self.year_day + 1, 3, '0'),
            'm' => (self.month as i64 + 1, 2, '0'),
            'M' => (self.minute, 2, '0'),
            'S' => (self.second, 2, '0'),
            'f' => (0, 6, '0'),
            's' => (self.unix_s, 1, '0'),
            'u' => ((self.week_day as i64 + 6) % 7 + 1, 1, '0'),
            'w' => (self.week_day as i64, 1, '0'),
            'U' => (self.week(0), 2, '0'),
            'W' => (self.week(1), 2, '0'),
            'y' => (self.year.rem_euclid(100), 2, '0'),
            'C' => (self.year.div_euclid(100), 2, '0'),
            'Y' => (self.year, 1, '0'),
            _ => return None,
        })
    }

    fn name(&self, directive: char) -> Option<&'static str> {
        let (day, month) = (*DAYS.get(self.week_day)?, *MONTHS.get(self.month)?);
        Some(match directive {
            'a' => &day[..3],
            'A' => day,
            'b' | 'h' => &month[..3],
            'B' => month,
            'p' if self.hour < 12 => "AM",
            'p' => "PM",
            'n' => "\n",
            't' => "\t",
            'Z' | 'z' => "",
            '%' => "%",
            _ => return None,
        })
    }

    fn write(&self, format: &str, out: &mut String) -> Result<(), char> {
        let mut letters = format.chars();
        while let Some(c) = letters.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = letters.next().unwrap_or('%');
            let mut flag = None;
            if matches!(directive, '-' | '_' | '0') {
                flag = Some(directive);
                directive = letters.next().ok_or(directive)?;
            }
            let whole = match directive {
                'c' => "%a %b %e %H:%M:%S %Y",
                'D' | 'x' => "%m/%d/%y",
                'F' => "%Y-%m-%d",
                'R' => "%H:%M",
                'r' => "%I:%M:%S %p",
                'T' | 'X' => "%H:%M:%S",
                _ => "",
            };
            if !whole.is_empty() {
                self.write(whole, out)?;
            } else if let Some(name) = self.name(directive) {
                out.push_str(name);
            } else {
                let (number, width, pad) = self.number(directive).ok_or(directive)?;
                let pad = match flag {
                    Some('_') => ' ',
                    Some('0') => '0',
                    _ => pad,
                };
                let width = if flag == Some('-') { 1 } else { width };
                let digits = number.to_string();
                out.extend(std::iter::repeat_n(pad, width.saturating_sub(digits.len())));
                let _ = out.write_str(&digits);
            }
        }
        Ok(())
    }
}

/// `unix_s` seconds since 1970 in the given format; the directive that is not known is the error.
pub(crate) fn strftime(unix_s: i64, format: &str) -> Result<String, char> {
    let mut out = String::new();
    Moment::new(unix_s).write(format, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_on_edges() {
        let iso = "%Y-%m-%d %H:%M:%S %a %j";
        for (unix_s, text) in [
            (0, "1970-01-01 00:00:00 Thu 001"),
            (-1, "1969-12-31 23:59:59 Wed 365"),
            (951_782_400, "2000-02-29 00:00:00 Tue 060"),
            (4_107_542_400, "2100-03-01 00:00:00 Mon 060"),
            (1_772_600_767, "2026-03-04 05:06:07 Wed 063"),
            (-11_644_473_600, "1601-01-01 00:00:00 Mon 001"),
        ] {
            assert_eq!(strftime(unix_s, iso).as_deref(), Ok(text));
        }
        assert_eq!(strftime(0, "%Q"), Err('Q'));
        assert!(strftime(i64::MAX, iso).is_ok() && strftime(i64::MIN, iso).is_ok());
    }
}
