//! Counts allocations and their memory, for tests that bound them.

#![allow(unsafe_code, reason = "only a global allocator can see every allocation")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// The number of allocations of this thread so far.
    pub(crate) static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// The memory of all blocks, as this thread has made and freed them.
    pub(crate) static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// A global allocator that counts the allocations of each thread, and the memory of the blocks that it holds.
struct Counting;

/// The memory of a block of `size` bytes with glibc's allocator, which adds eight bytes and rounds up to a multiple of
/// 16, at least 32.
const fn block(size: usize) -> usize {
    let block = (size + 8).next_multiple_of(16);
    if block < 32 { 32 } else { block }
}

// SAFETY: every call is passed on as it came; counting touches nothing but thread-local integers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get().wrapping_add(block(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get().wrapping_sub(block(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get().wrapping_add(block(size)).wrapping_sub(block(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
