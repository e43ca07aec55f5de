//! `strftime_now`: the date that some templates tell the model, in UTC and in Python's `C` locale.

use std::time::{Duration, SystemTime};

use minijinja::{Error, ErrorKind};

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
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
/// Longest result in bytes; a date needs a few dozen.
const TEXT_BYTES_MAX: usize = 1024;

/// Formats `now` by the directives that dates and times need (Python's `datetime.strftime`, glibc's `-` included).
pub(super) fn format(now: SystemTime, format: &str) -> Result<String, Error> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day, day_of_year) = civil(days);
    let weekday = DAYS[(days as usize + 3) % 7]; // 1970-01-01 was a Thursday.
    let month_name = MONTHS[month as usize - 1];
    let hour12 = (hour + 11) % 12 + 1;
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
        } else {
            let mut directive = rest.next();
            let padded = directive != Some('-');
            if !padded {
                directive = rest.next();
            }
            let number = |value: u64, width: usize| {
                if padded { format!("{value:0width$}") } else { value.to_string() }
            };
            text += &match directive {
                Some('Y') => year.to_string(),
                Some('y') => number(year % 100, 2),
                Some('m') => number(month, 2),
                Some('B') => month_name.to_owned(),
                Some('b' | 'h') => month_name[..3].to_owned(),
                Some('d') => number(day, 2),
                Some('e') => format!("{day:2}"),
                Some('j') => number(day_of_year, 3),
                Some('A') => weekday.to_owned(),
                Some('a') => weekday[..3].to_owned(),
                Some('H') => number(hour, 2),
                Some('I') => number(hour12, 2),
                Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
                Some('M') => number(minute, 2),
                Some('S') => number(second, 2),
                Some('F') => format!("{year}-{month:02}-{day:02}"),
                Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
                Some('Z') => "UTC".to_owned(),
                Some('z') => "+0000".to_owned(),
                Some('%') => "%".to_owned(),
                _ => return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: unknown directive")),
            };
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: format too long"));
        }
    }
    Ok(text)
}

/// Year, month, day and day of the year of a day since 1970-01-01 in the proleptic Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64, u64) {
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    // 400 years have 146,097 days, so the loop below runs at most 400 times.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = left + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_python() {
        let check = |seconds: u64, directives: &str, expected: &str| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(format(now, directives).expect(directives), expected);
        };
        check(0, "%d %b %Y %A %H:%M:%S", "01 Jan 1970 Thursday 00:00:00");
        check(1_709_164_800, "%Y-%m-%d %j %a", "2024-02-29 060 Thu");
        check(1_735_689_599, "%d %B %Y %I %p", "31 December 2024 11 PM");
        check(1_795_510_800, "%-d/%-m/%y %%", "24/11/26 %");
        check(4_107_542_400, "%F %T", "2100-03-01 00:00:00");
        check(951_782_400, "%e %h", "29 Feb");
    }

    #[test]
    fn unknown_directives_and_endless_formats_are_errors() {
        for bad in ["%", "%-", "%Q", &"%A".repeat(1000)] {
            assert!(format(SystemTime::UNIX_EPOCH, bad).is_err(), "{bad}");
        }
    }
}
