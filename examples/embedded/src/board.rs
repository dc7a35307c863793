//! The boundary to the firmware: the functions of `board.h`, the allocator and the panic handler.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;
use core::num::NonZeroU64;
use core::panic::PanicInfo;

use perennial::{Arc, Certificate, Event, Failure, Fingerprint, Instant, Key, Now, RequestId, Template};
use perennial::{UnixTime, Validity};

/// `struct answer` of `board.h`.
#[repr(C)]
struct Answer {
    id: u64,
    status: u32,
    not_before: i64,
    not_after: i64,
    fingerprint: [u8; 32],
}

// SAFETY: these are the functions of `board.h`, and those of the C library.
unsafe extern "C" {
    safe fn board_millis() -> u64;
    safe fn board_unix_millis() -> i64;
    fn board_request(id: u64, common_name: *const c_char, length: usize, new_key: bool);
    fn board_answer(answer: *mut Answer) -> bool;
    fn board_write(fingerprint: *const u8, serve: bool) -> bool;
    safe fn board_sleep(until: u64);
    fn malloc(size: usize) -> *mut c_void;
    fn free(pointer: *mut c_void);
    safe fn abort() -> !;
}

pub(crate) fn now() -> Now {
    Now { instant: Instant::from_millis(board_millis()), unix: UnixTime::from_millis(board_unix_millis()) }
}

pub(crate) fn request(id: RequestId, template: &Template, key: Key) {
    let name = template.common_name();
    // SAFETY: the pointer is good for as many bytes as the length says, and the firmware keeps neither.
    unsafe { board_request(id.get(), name.as_ptr().cast(), name.len(), key == Key::New) };
}

/// Takes the next answer of the signer from the board. The answer belongs to a request for `template`.
pub(crate) fn answer(template: &Arc<Template>) -> Option<Event> {
    let mut answer = MaybeUninit::uninit();
    // SAFETY: the firmware fills the answer if it returns true.
    let Answer { id, status, not_before, not_after, fingerprint } = unsafe {
        if !board_answer(answer.as_mut_ptr()) {
            return None;
        }
        answer.assume_init()
    };
    let id = RequestId::new(NonZeroU64::new(id)?);
    let validity = Validity::new(UnixTime::from_secs(not_before), UnixTime::from_secs(not_after));
    let failure = match (status, validity) {
        (0, Ok(validity)) => {
            let certificate = Arc::new(Certificate::for_template(template.clone(), validity, Fingerprint(fingerprint)));
            return Some(Event::CsrIssued { id, certificate });
        }
        (0, Err(_)) => Failure::BadCertificate,
        (1, _) => Failure::Unreachable,
        _ => Failure::SignerFailed,
    };
    Some(Event::CsrFailed { id, failure, retry_after: None })
}

pub(crate) fn write(certificate: &Certificate, serve: bool) -> bool {
    // SAFETY: the pointer is good for 32 bytes, and the firmware does not keep it.
    unsafe { board_write(certificate.fingerprint.0.as_ptr(), serve) }
}

pub(crate) fn sleep(deadline: Option<Instant>) {
    board_sleep(deadline.unwrap_or(Instant::MAX).as_millis());
}

/// The allocator of the C library.
struct Malloc;

// SAFETY: `malloc` and `free` fulfil the contract for layouts that need no more than `malloc`'s alignment.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > 2 * size_of::<usize>() {
            return core::ptr::null_mut();
        }
        // SAFETY: `malloc` takes any size.
        unsafe { malloc(layout.size()).cast() }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, _: Layout) {
        // SAFETY: the pointer came from `malloc`.
        unsafe { free(pointer.cast()) }
    }
}

#[global_allocator]
static ALLOCATOR: Malloc = Malloc;

/// A panic is a bug of the library. The firmware restarts the board.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    abort()
}
