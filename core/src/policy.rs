//! How patient, how eager: every number the machine goes by.

use core::fmt;
use core::time::Duration;

use crate::time::millis;

/// A span between two fractions, in permille. Where in it is decided by jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    from: u16,
    to: u16,
}

impl Window {
    /// From `from` to `to` permille.
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

    /// A span inside the window of `whole`; `draw` chooses where, 0 at its beginning, `u64::MAX` at its end.
    pub(crate) const fn of(self, whole: Duration, draw: u64) -> Duration {
        let (from, width) = (self.from as u128, (self.to - self.from) as u128);
        // permille in 64-bit fixed point: width × draw / 2⁶⁴, exact to a millisecond for any lifetime.
        let permille = (from << 32) + width * (draw >> 32) as u128;
        let part = (millis(whole) as u128 * permille / 1000) >> 32;
        Duration::from_millis(if part > u64::MAX as u128 { u64::MAX } else { part as u64 })
    }
}

/// How long to wait after a failure: doubling from `first` to `cap`, spread by jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    spread: Window,
    beat: bool,
}

impl Backoff {
    /// Doubles from `first` to `cap`; each wait is the part of that which `spread` and jitter choose.
    /// A spread of 0–1000 ‰ is "full jitter".
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

    /// The same as [`new`](Self::new), for the numbers of this file, which are in order.
    const fn from_secs(first: u64, cap: u64, spread: Window) -> Self {
        Self { first: Duration::from_secs(first), cap: Duration::from_secs(cap), spread, beat: false }
    }

    /// The same backoff that, once at its cap, keeps a steady beat: attempts begin a multiple of
    /// `cap` after each other whatever they take, without jitter (client-go's 32 s `PollInfinite`).
    #[must_use]
    pub const fn with_beat(mut self) -> Self {
        self.beat = true;
        self
    }

    /// The longest wait.
    pub const fn longest(&self) -> Duration {
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

    /// Which part of a wait jitter leaves.
    pub const fn spread(&self) -> Window {
        self.spread
    }

    /// Whether it keeps a beat, once at its cap.
    pub const fn keeps_beat(&self) -> bool {
        self.beat
    }

    /// The wait after the `failures`th failure in a row, the last attempt having begun `took` ago;
    /// `draw` chooses where in the spread.
    pub fn wait(&self, failures: u32, took: Duration, draw: u64) -> Duration {
        let base = self.unjittered(failures);
        if !self.beat || base < self.cap {
            return self.spread.of(base, draw);
        }
        if self.unjittered(failures.saturating_sub(1)) < self.cap {
            return self.cap;
        }
        let (beat, took) = (millis(self.cap), millis(took));
        Duration::from_millis(beat - took % beat)
    }

    fn unjittered(&self, failures: u32) -> Duration {
        let factor = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
        Duration::from_millis(millis(self.first).saturating_mul(factor)).min(self.cap)
    }

    /// Clamps to the first failure count whose backoff has reached the cap.
    #[cfg(feature = "hash-at")]
    pub(crate) fn no_longer_after(&self, failures: u32) -> u32 {
        let at_cap = (0..failures).find(|fewer| self.unjittered(*fewer) == self.cap);
        at_cap.map_or(failures, |fewer| failures.min(fewer + 1))
    }
}

/// How many submissions: a token bucket. It starts full; each submission takes a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    size: u32,
    refill: Duration,
}

impl Budget {
    /// Room for `size` tokens, one coming back every `refill`.
    ///
    /// # Errors
    /// [`PolicyError::Budget`] if `size` is below two (the last token is kept for what is urgent),
    /// `refill` is below a millisecond, or filling the bucket takes longer than clocks can count.
    pub const fn new(size: u32, refill: Duration) -> Result<Self, PolicyError> {
        if size >= 2 && millis(refill) >= 1 && millis(refill).checked_mul(size as u64).is_some() {
            Ok(Self { size, refill })
        } else {
            Err(PolicyError::Budget { size, refill })
        }
    }

    /// How many tokens the bucket holds.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// How often a token comes back.
    pub const fn refill(&self) -> Duration {
        self.refill
    }

    /// How long an empty bucket takes to fill up.
    pub(crate) const fn whole(&self) -> Duration {
        self.refill_of(self.size)
    }

    /// The tokens that came back to `other` in this time, at most a whole bucket of this one, as the time in which they
    /// would come back to this one.
    pub(crate) fn carried_over(&self, time: Duration, other: &Self) -> Duration {
        let scaled = u128::from(millis(time)) * u128::from(millis(self.refill)) / u128::from(millis(other.refill));
        Duration::from_millis(u64::try_from(scaled).unwrap_or(u64::MAX)).min(self.whole())
    }

    /// How long `tokens` tokens take to come back.
    pub(crate) const fn refill_of(&self, tokens: u32) -> Duration {
        Duration::from_millis(millis(self.refill).saturating_mul(tokens as u64))
    }
}

/// Every number the machine goes by. Shared by any number of machines; zero durations count as 1 ms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// When to rotate, in permille of the lifetime counted from `notBefore`.
    pub window: Window,
    /// How long a request may stay unanswered. Approval by a person takes time: be generous.
    pub request_timeout: Duration,
    /// The least time between two submissions.
    pub spacing: Duration,
    /// How many submissions over time. Nothing beats it.
    pub budget: Budget,
    /// After network trouble, timeouts and the like.
    pub transient: Backoff,
    /// After a considered no ([`Failure::is_refusal`](crate::Failure::is_refusal)).
    pub refused: Backoff,
    /// Between attempts to make a certificate durable. Its cap is also how long to wait for a lost answer.
    pub write: Backoff,
    /// The longest sleep: how soon suspend and wall-clock steps are noticed.
    pub max_sleep: Duration,
    /// A new key, and so a new request object, for every attempt, as client-go does. Off: a retry
    /// keeps its key, and the signer sees one request however long approval takes.
    pub new_key_per_attempt: bool,
}

impl Policy {
    /// The spacing that is kept: at least a millisecond.
    pub(crate) fn spacing(&self) -> Duration {
        self.spacing.max(Duration::from_millis(1))
    }

    /// How long to wait after a refusal, or after any other failure.
    pub(crate) const fn backoff(&self, is_refusal: bool) -> &Backoff {
        if is_refusal { &self.refused } else { &self.transient }
    }

    /// client-go's numbers, for those who port from it: retries after 2, 4, 8 and 16 s (+0–10 %), then
    /// every 32 s whatever the reason, a new key each time. Its budget never binds on that sequence.
    ///
    /// Source: client-go `util/certificate/certificate_manager.go`.
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

    /// A policy for certificates that live this long, counted from issue: the default one from five hours on. Below that, what
    /// the default allows for people to approve and for outages to pass would outlast the certificate, so that each span
    /// is a part of the lifetime instead. In the tenth of the lifetime that is left at the end of the window there is time
    /// for a request that is never answered and for another one that is, and the budget has a token for each.
    ///
    /// Its [`shortest_lifetime`](Self::shortest_lifetime) is no longer than `lifetime`, if that is 2 ms or more. Writes are
    /// repeated as by default: a disk is no faster because certificates are short-lived.
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

    /// The most submissions in any span of `span`, under any script: what a signer must be ready for.
    pub fn submissions_within(&self, span: Duration) -> u64 {
        let by_budget = u64::from(self.budget.size).saturating_add(millis(span) / millis(self.budget.refill));
        let by_spacing = (millis(span) / millis(self.spacing())).saturating_add(1);
        by_budget.min(by_spacing)
    }

    /// The shortest lifetime, counted from issue, for which a healthy signer keeps the certificate inside
    /// its window for ever: a token has come back before the next one is wanted. A signer that dates
    /// back brings the rotation point nearer to the issue: add to the lifetime what it dates back. For shorter lives there is
    /// [`for_lifetime`](Self::for_lifetime).
    pub fn shortest_lifetime(&self) -> Duration {
        let pace = millis(self.budget.refill.max(self.spacing()));
        Duration::from_millis(pace.saturating_mul(1000).div_ceil(self.window.from.max(1).into()))
    }
}

/// Patient with people, gentle with signers: at most 50 submissions in any hour, a refusal repeated
/// after minutes, then after an hour, everything jittered.
impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A policy that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// A window that ends before it begins.
    Window {
        /// Permille.
        from: u16,
        /// Permille.
        to: u16,
    },
    /// A backoff whose first wait is nothing, or above its cap.
    Backoff {
        /// The first wait.
        first: Duration,
        /// The cap.
        cap: Duration,
    },
    /// A budget too small to keep a token for what is urgent, or refilled without pause.
    Budget {
        /// Tokens.
        size: u32,
        /// One token's time.
        refill: Duration,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { from, to } => write!(f, "a window from {from} to {to} permille ends before it begins"),
            Self::Backoff { first, cap } => {
                write!(f, "a backoff from {first:?} to {cap:?} must begin at 1 ms or more, and not above its cap")
            }
            Self::Budget { size, refill } => {
                write!(f, "a budget of {size} every {refill:?} must hold two tokens or more, ")?;
                f.write_str("refill in 1 ms or more, and fill up some day")
            }
        }
    }
}

impl core::error::Error for PolicyError {}
