//! Time as a value that is handed in, and the one form in which it is stored: RFC 3339 in UTC with milliseconds.

use std::{
    fmt,
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A point in time with millisecond resolution, between the years 1970 and 9999.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// A text that is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a time in RFC 3339 form, such as 2026-01-31T09:30:00Z")]
pub struct TimestampError(String);

/// The last millisecond of the year 9999, where RFC 3339 ends.
const LAST_MS: i64 = 253_402_300_799_999;

impl Timestamp {
    /// From milliseconds since 1970; cut to the years that RFC 3339 can write.
    pub const fn from_millis(millis: i64) -> Self {
        Self(if millis < 0 {
            0
        } else if millis > LAST_MS {
            LAST_MS
        } else {
            millis
        })
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, as tokens and tar headers want them.
    pub const fn seconds(self) -> i64 {
        self.0 / 1000
    }

    /// This time plus `by`, cut at the year 9999.
    pub fn plus(self, by: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This time less `by`, cut at 1970.
    pub fn minus(self, by: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp(self.seconds())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            at.month() as u8,
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            self.0 % 1000
        )
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let at = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| TimestampError(text.chars().take(64).collect()))?;
        Ok(Self::from_millis((at.unix_timestamp_nanos() / 1_000_000) as i64))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How long somebody has run. It only grows: nobody can set it, and it stands still while the machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Whose time this is: that of another process cannot be compared with it.
    pub of: u64,
    /// For how long.
    pub passed: Duration,
}

impl Running {
    fn of_this_process() -> Self {
        static BEGUN: OnceLock<(u64, Instant)> = OnceLock::new();
        let (of, begun) = BEGUN.get_or_init(|| {
            let now = u64::try_from(SystemClock.now().millis()).unwrap_or_default();
            (now.rotate_left(20) ^ u64::from(std::process::id()), Instant::now())
        });
        Self { of: *of, passed: begun.elapsed() }
    }
}

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;

    /// How long this process has run.
    fn running(&self) -> Running {
        Running::of_this_process()
    }

    /// Why what it says is not to be relied on; `None` while nothing speaks against it.
    fn doubt(&self) -> Option<Doubt> {
        None
    }

    /// The operator says that it is right now: a jump of it is explained.
    fn confirm(&self) {}
}

/// Why a clock is not relied on, in words for the one who looks after the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It was not compared with the others' clocks yet, as some seconds after a start.
    Early(String),
    /// It is some seconds from the others' clocks: worth knowing, and harmless.
    Slight(String),
    /// It was set, or is far from the time of the last commit, and nothing has explained that yet.
    Jumped(String),
    /// It differs from the other replicas' clocks, and none can say which is right.
    Apart(String),
    /// It is the one that is wrong: the other replicas' clocks agree with each other.
    Wrong(String),
}

impl Doubt {
    /// What it is about, in words.
    pub fn text(&self) -> &str {
        match self {
            Self::Early(text)
            | Self::Slight(text)
            | Self::Jumped(text)
            | Self::Apart(text)
            | Self::Wrong(text) => text,
        }
    }

    /// Whether nothing may be deleted for its age meanwhile.
    pub const fn pauses_deletion(&self) -> bool {
        !matches!(self, Self::Slight(_))
    }

    /// What an operator is to be told of.
    pub fn alarm(&self) -> Option<&str> {
        (!matches!(self, Self::Early(_))).then(|| self.text())
    }

    /// Whether others are right where this clock is not, so that work is better left to them.
    pub const fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong(_))
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug)]
pub struct ManualClock {
    at: AtomicI64,
    running: AtomicU64,
}

impl ManualClock {
    /// Stands at `at`.
    pub fn new(at: Timestamp) -> Self {
        Self { at: AtomicI64::new(at.millis()), running: AtomicU64::new(0) }
    }

    /// Moves on by `by`: so much time passes.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.running.fetch_add(by, Ordering::SeqCst);
        self.set_by(i64::try_from(by).unwrap_or(i64::MAX));
    }

    /// Is set to another time, `by` milliseconds from its own, while no time passes.
    pub fn set_by(&self, by: i64) {
        self.at.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.at.load(Ordering::SeqCst))
    }

    fn running(&self) -> Running {
        Running { of: 0, passed: Duration::from_millis(self.running.load(Ordering::SeqCst)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_milliseconds() {
        let at = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(at.to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!("2023-11-14T22:13:20.123Z".parse(), Ok(at));
        assert_eq!("2023-11-14T23:13:20.123+01:00".parse(), Ok(at));
        assert!("yesterday".parse::<Timestamp>().is_err());
        let last = Timestamp::from_millis(i64::MAX);
        assert_eq!(last.to_string().parse(), Ok(last));
    }
}
