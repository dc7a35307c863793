//! The shared pointer of the public API, on targets with and without compare-and-swap.

#[cfg(target_has_atomic = "ptr")]
pub use alloc::sync::Arc;
#[cfg(all(not(target_has_atomic = "ptr"), feature = "portable-atomic"))]
pub use portable_atomic_util::Arc;

#[cfg(all(not(target_has_atomic = "ptr"), not(feature = "portable-atomic")))]
compile_error!(
    "`Arc` needs compare-and-swap, which this target lacks: enable the feature `portable-atomic` of `perennial`, and in \
     the program the feature `unsafe-assume-single-core` or `critical-section` of the crate `portable-atomic`"
);
