//! Policy: every time, limit and rate that the machine applies.

use core::fmt;
use core::time::Duration;

use crate::time::{Instant, at_least_a_millisecond, millis};

/// A range of fractions in permille, from which jitter chooses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    from: u16,
    to: u16,
}

impl Window {
    /// A window from `from` to `to` permille, both inclusive.
    ///
    /// # Errors
    /// [`PolicyError::Window`] if `from` is greater than `to`.
    pub const fn new(from: u16, to: u16) -> Result<Self, PolicyError> {
        if from <= to { Ok(Self { from, to }) } else { Err(PolicyError::Window { from, to }) }
    }

    /// The beginning of the window, in permille.
    pub const fn from(self) -> u16 {
        self.from
    }

    /// The end of the window, in permille.
    pub const fn to(self) -> u16 {
        self.to
    }

    /// The fraction of `whole` that `draw` chooses: 0 chooses the beginning of the window, `u64::MAX` the end.
    pub(crate) const fn of(self, whole: Duration, draw: u64) -> Duration {
        Duration::from_millis(self.of_millis(millis(whole), draw))
    }

    /// [`of`](Self::of) in milliseconds.
    pub(crate) const fn of_millis(self, whole: u64, draw: u64) -> u64 {
        let (from, width) = (self.from as u64, (self.to - self.from) as u64);
        // permille in 32-bit fixed point, of at most 48 bits: exact to a millisecond for any lifetime.
        let permille = (from << 32) + width * (draw >> 32);
        // whole × permille / 1000. A division of 128 bits costs as much as the rest of a Tick: divide first, and add
        // the share of the remainder.
        let part = (whole / 1000) as u128 * permille as u128 + (whole % 1000 * permille / 1000) as u128;
        let part = part >> 32;
        if part > u64::MAX as u128 { u64::MAX } else { part as u64 }
    }
}

/// The wait after failures in a row: doubles from `first` to `cap`, spread by jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    spread: Window,
    beat: bool,
}

impl Backoff {
    /// A backoff that doubles from `first` to `cap`. Each wait is multiplied by a fraction that jitter chooses from
    /// `spread`: 0–1000 ‰ is "full jitter".
    ///
    /// # Errors
    /// [`PolicyError::Backoff`] if `first` is below a millisecond or greater than `cap`.
    pub const fn new(first: Duration, cap: Duration, spread: Window) -> Result<Self, PolicyError> {
        if millis(first) >= 1 && millis(first) <= millis(cap) {
            Ok(Self { first, cap, spread, beat: false })
        } else {
            Err(PolicyError::Backoff { first, cap })
        }
    }

    /// [`new`](Self::new) without its checks, for the constants of this file.
    const fn from_secs(first: u64, cap: u64, spread: Window) -> Self {
        Self { first: Duration::from_secs(first), cap: Duration::from_secs(cap), spread, beat: false }
    }

    /// Makes the backoff keep a steady beat once it has reached its cap, as client-go does with `PollInfinite` every 32
    /// s. From then on, each attempt begins a multiple of `cap` after the attempt before it, however long that one
    /// took, and without jitter.
    #[must_use]
    pub const fn with_beat(mut self) -> Self {
        self.beat = true;
        self
    }

    /// The longest wait, jitter included.
    pub const fn longest(&self) -> Duration {
        // A steady beat has no jitter: its waits are up to the whole cap.
        let spread = self.spread.of(self.cap, u64::MAX);
        if self.beat && millis(spread) < millis(self.cap) { self.cap } else { spread }
    }

    /// The first wait before jitter.
    pub const fn first(&self) -> Duration {
        self.first
    }

    /// The longest wait before jitter.
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// The fractions of a wait from which jitter chooses.
    pub const fn spread(&self) -> Window {
        self.spread
    }

    /// Whether the backoff keeps a steady beat once at its cap ([`with_beat`](Self::with_beat)).
    pub const fn keeps_beat(&self) -> bool {
        self.beat
    }

    /// The wait after the `failures`th failure in a row (from 1). `took` is the duration of the last attempt; a steady
    /// beat subtracts it from the wait. `draw` chooses the fraction from [`spread`](Self::spread).
    pub fn wait(&self, failures: u32, took: Duration, draw: u64) -> Duration {
        let base = self.unjittered(failures);
        if !self.beat || base < self.cap {
            return self.spread.of(base, draw);
        }
        // The beat begins with the first wait at the cap, as client-go's ticker does with `PollInfinite`.
        if self.unjittered(failures.saturating_sub(1)) < self.cap {
            return self.cap;
        }
        // The duration of the attempt is a part of the beat: the next attempt begins a multiple of the cap after this
        // one began.
        let (beat, took) = (millis(self.cap), millis(took));
        Duration::from_millis(beat - took % beat)
    }

    fn unjittered(&self, failures: u32) -> Duration {
        // The factor saturates at 64 bits; the cap bounds the wait.
        let factor = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
        Duration::from_millis(millis(self.first).saturating_mul(factor)).min(self.cap)
    }

    /// Clamps `failures` to the first count whose wait has reached the cap: from there on all waits are alike.
    #[cfg(feature = "hash-at")]
    pub(crate) fn clamp_failures(&self, failures: u32) -> u32 {
        let at_cap = (0..failures).find(|fewer| self.unjittered(*fewer) == self.cap);
        at_cap.map_or(failures, |fewer| failures.min(fewer + 1))
    }
}

/// The submission budget: a token bucket that starts full. Each submission takes a token, and the bucket regains one
/// token in each refill time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    size: u32,
    refill: Duration,
}

impl Budget {
    /// A bucket of `size` tokens, refilled by one token every `refill`.
    ///
    /// # Errors
    /// [`PolicyError::Budget`] if `size` is below two (the last token is reserved for urgent submissions),
    /// `refill` is below a millisecond, or filling the bucket takes longer than clocks can count.
    pub const fn new(size: u32, refill: Duration) -> Result<Self, PolicyError> {
        if size >= 2 && millis(refill) >= 1 && millis(refill).checked_mul(size as u64).is_some() {
            Ok(Self { size, refill })
        } else {
            Err(PolicyError::Budget { size, refill })
        }
    }

    /// The number of tokens in a full bucket.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// The time between two tokens.
    pub const fn refill(&self) -> Duration {
        self.refill
    }

    /// The time in which an empty bucket becomes full.
    pub(crate) const fn time_to_fill(&self) -> Duration {
        self.time_to_fill_from(0)
    }

    /// The time in which a bucket with this number of tokens becomes full. A bucket has these tokens once it becomes
    /// full within this time.
    pub(crate) const fn time_to_fill_from(&self, tokens: u32) -> Duration {
        Duration::from_millis(millis(self.refill).saturating_mul(self.size.saturating_sub(tokens) as u64))
    }

    /// Converts a number of tokens between budgets, where tokens are expressed as the time in which they are regained.
    /// Returns the time in which this budget regains as many tokens as `other` regains in `time`, at most the time in
    /// which an empty bucket becomes full.
    pub(crate) fn carried_over(&self, time: Duration, other: &Self) -> Duration {
        // In 128 bits: the product of two spans can overflow 64.
        let scaled = u128::from(millis(time)) * u128::from(millis(self.refill)) / u128::from(millis(other.refill));
        Duration::from_millis(u64::try_from(scaled).unwrap_or(u64::MAX)).min(self.time_to_fill())
    }

    /// When a bucket that was full at `whole_at`, or will be, is full again after a token is taken from it `now`.
    pub(crate) fn whole_after_taking(&self, whole_at: Instant, now: Instant) -> Instant {
        // A bucket that has been full for a while still holds no more than its size: count from now.
        whole_at.max(now).after(self.refill)
    }
}

/// Every time, limit and rate that the machine applies. Any number of machines share one policy. Durations of zero
/// count as 1 ms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// When to rotate, in permille of the lifetime counted from `notBefore`.
    pub window: Window,
    /// How long a request may stay unanswered before it counts as failed. Leave time for approval by a person.
    pub request_timeout: Duration,
    /// The least time between two submissions.
    pub spacing: Duration,
    /// The limit of submissions over time. No event overrules it.
    pub budget: Budget,
    /// Backoff after outages: network errors, timeouts, throttling and every other failure that is no refusal.
    pub transient: Backoff,
    /// Backoff after a refusal ([`Failure::is_refusal`](crate::Failure::is_refusal)).
    pub refused: Backoff,
    /// Backoff between attempts to make a certificate durable. If the driver does not reply to a write, the machine
    /// repeats the write after the cap.
    pub write: Backoff,
    /// The longest sleep: the machine notices suspend and steps of the wall clock within this time.
    ///
    /// For a machine whose signer is [`Shared`](crate::SignerStatus::Shared), [`Limits`](crate::Limits) has a time of
    /// its own.
    pub max_sleep: Duration,
    /// True: every attempt has a new key, and so a new request object, as in client-go. False: a retry uses the same
    /// key, and the signer sees one request however long approval takes.
    pub new_key_per_attempt: bool,
}

impl Policy {
    /// The spacing in effect: at least a millisecond.
    pub(crate) fn spacing(&self) -> Duration {
        at_least_a_millisecond(self.spacing)
    }

    /// The backoff after a refusal if `is_refusal`, otherwise the backoff after other failures.
    pub(crate) const fn backoff(&self, is_refusal: bool) -> &Backoff {
        if is_refusal { &self.refused } else { &self.transient }
    }

    /// The timing of client-go (`util/certificate/certificate_manager.go`), for programs that are ported from
    /// client-go. Retries come after 2, 4, 8 and 16 s (+0–10 %), then every 32 s after any failure, with a new key each
    /// time. The budget never delays that sequence.
    pub const fn kubelet() -> Self {
        let backoff = Backoff::from_secs(2, 32, Window { from: 1000, to: 1100 }).with_beat();
        Self {
            spacing: Duration::from_secs(1),
            budget: Budget { size: 10, refill: Duration::from_secs(30) },
            transient: backoff,
            refused: backoff,
            new_key_per_attempt: true,
            ..Self::DEFAULT
        }
    }

    /// A policy for certificates of this lifetime, counted from issue. For lifetimes of five hours or more, this is the
    /// default policy. For shorter lifetimes, each wait is a fraction of the lifetime: the default policy's waits for
    /// approval and in outages would outlast the certificate. The last tenth of the lifetime, after the window, has
    /// time for two requests, so that a second one follows if the first is never answered. The budget has a token for
    /// each of them.
    ///
    /// The policy's [`shortest_lifetime`](Self::shortest_lifetime) is at most `lifetime`, if that is 2 ms or more. The
    /// backoff of writes is that of the default policy: disks are no faster for short-lived certificates.
    ///
    /// ```
    /// # use perennial::Policy;
    /// # use std::time::Duration;
    /// let policy = Policy::for_lifetime(Duration::from_secs(10 * 60));
    /// assert_eq!(policy.request_timeout, Duration::from_secs(30));
    /// assert_eq!(Policy::for_lifetime(Duration::from_secs(86_400)), Policy::default());
    /// ```
    pub fn for_lifetime(lifetime: Duration) -> Self {
        let usual = Self::DEFAULT;
        let part = |of: u64, most: Duration| Duration::from_millis((millis(lifetime) / of).max(1)).min(most);
        let backoff = |usual: Backoff, first: u64, cap: u64| Backoff {
            first: part(first, usual.first),
            cap: part(cap, usual.cap),
            ..usual
        };
        Self {
            request_timeout: part(20, usual.request_timeout),
            spacing: part(1000, usual.spacing),
            budget: Budget { refill: part(100, usual.budget.refill), ..usual.budget },
            transient: backoff(usual.transient, 1000, 50),
            refused: backoff(usual.refused, 20, 4),
            // Steps of the wall clock need not be noticed sooner than after a second.
            max_sleep: part(50, usual.max_sleep).max(Duration::from_secs(1)),
            ..usual
        }
    }

    const DEFAULT: Self = Self {
        window: Window { from: 700, to: 900 },
        request_timeout: Duration::from_secs(15 * 60),
        spacing: Duration::from_secs(1),
        budget: Budget { size: 10, refill: Duration::from_secs(90) },
        transient: Backoff::from_secs(1, 120, Window { from: 0, to: 1000 }),
        refused: Backoff::from_secs(5 * 60, 60 * 60, Window { from: 500, to: 1000 }),
        write: Backoff::from_secs(1, 60, Window { from: 500, to: 1000 }),
        max_sleep: Duration::from_secs(60),
        new_key_per_attempt: false,
    };

    /// The most submissions in any period of length `span`, whatever the events: the load for which a signer must be
    /// sized.
    pub fn submissions_within(&self, span: Duration) -> u64 {
        let by_budget = u64::from(self.budget.size).saturating_add(millis(span) / millis(self.budget.refill));
        // The first submission of the period waits for no spacing.
        let by_spacing = (millis(span) / millis(self.spacing())).saturating_add(1);
        by_budget.min(by_spacing)
    }

    /// The shortest lifetime, counted from issue, for which every rotation with a healthy signer happens inside the
    /// window, since the budget has regained a token by then. A signer that backdates notBefore brings the rotation
    /// point nearer to the issue: add the time by which it backdates. [`for_lifetime`](Self::for_lifetime) has policies
    /// for shorter lifetimes.
    pub fn shortest_lifetime(&self) -> Duration {
        let slowest = millis(self.budget.refill.max(self.spacing()));
        Duration::from_millis(slowest.saturating_mul(1000).div_ceil(self.window.from.max(1).into()))
    }
}

/// The default policy allows at most 50 submissions in any hour. The first retry after a refusal comes after minutes.
/// If refusals go on, retries come up to an hour apart. Every wait has jitter.
impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A value of a policy that is out of range. The constructor has returned no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// A window that ends before it begins.
    Window {
        /// The beginning of the window, in permille.
        from: u16,
        /// The end of the window, in permille.
        to: u16,
    },
    /// A backoff whose first wait is below a millisecond or above its cap.
    Backoff {
        /// The first wait before jitter.
        first: Duration,
        /// The longest wait before jitter.
        cap: Duration,
    },
    /// A budget that has fewer than two tokens, has a refill time below a millisecond, or takes longer than 2⁶⁴ ms to
    /// fill up.
    Budget {
        /// The number of tokens in a full bucket.
        size: u32,
        /// The time between two tokens.
        refill: Duration,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { from, to } => write!(f, "a window from {from} to {to} permille ends before it begins"),
            Self::Backoff { first, cap } => {
                write!(f, "the first wait, {first:?}, must be at least 1 ms and not exceed the longest wait, {cap:?}")
            }
            Self::Budget { size, refill } => {
                write!(
                    f,
                    "a submission budget of {size} requests, one more every {refill:?}, needs at least two requests "
                )?;
                f.write_str("and 1 ms, and must fill up within 2⁶⁴ ms")
            }
        }
    }
}

impl core::error::Error for PolicyError {}
