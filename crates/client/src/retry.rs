//! When to try again, and how long to wait first.

use std::time::Duration;

use http::StatusCode;

/// How often a request is tried and how long it is waited between two attempts.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all; one means no retry.
    pub attempts: u32,
    /// The wait before the second attempt; doubles each time.
    pub first_wait: Duration,
    /// The longest wait, also when the service asks for a longer one by `Retry-After`.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// Every request is tried once: for load generators and for tests that count.
    pub const fn never() -> Self {
        Self { attempts: 1, first_wait: Duration::ZERO, longest_wait: Duration::ZERO }
    }

    /// The wait after the attempt of this number (from one), or `None` when it was the last.
    pub fn wait(&self, attempt: u32, asked: Option<Duration>) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doubled = self.first_wait.saturating_mul(1 << (attempt - 1).min(16));
        Some(asked.unwrap_or(doubled).min(self.longest_wait))
    }
}

/// Whether the status says "not now" rather than "no".
pub(crate) fn not_now(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504 | 507)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let policy = RetryPolicy {
            attempts: 4,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(3),
        };
        let waits: Vec<_> = (1..=4).map(|n| policy.wait(n, None).map(|w| w.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(3), None]);
        assert_eq!(policy.wait(1, Some(Duration::from_secs(900))), Some(Duration::from_secs(3)));
        assert_eq!(policy.wait(1, Some(Duration::ZERO)), Some(Duration::ZERO));
        assert_eq!(RetryPolicy::never().wait(1, Some(Duration::ZERO)), None);
    }
}
