// The functions that the firmware provides for the library, and the one that the library provides.
//
// The firmware holds keys and certificates, for example in a secure element, and speaks to the signer. The library decides
// when to request a certificate and which one to serve. The library also needs `malloc`, `free` and `abort`.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Runs the rotation. Never returns.
_Noreturn void rotation_run(void);

// Milliseconds since the boot. Counts on during sleep.
uint64_t board_millis(void);

// Milliseconds since 1970-01-01T00:00:00Z.
int64_t board_unix_millis(void);

// Sends a CSR for the common name to the signer, and returns without waiting for the answer. The CSR is signed with a new
// key, or with that of the request before. `board_answer` returns the answer, also if the CSR could not be sent.
void board_request(uint64_t id, const char *common_name, size_t length, bool new_key);

// An answer of the signer.
struct answer {
    // The id of the request.
    uint64_t id;
    // 0: a certificate was issued for the key and the common name of the request; the firmware has checked both. 1: the
    // signer could not be reached. 2: the signer refused the request.
    uint32_t status;
    // The validity, in seconds since 1970-01-01T00:00:00Z, and the SHA-256 of a certificate that was issued.
    int64_t not_before, not_after;
    uint8_t fingerprint[32];
};

// Takes the next answer. False: no answer has arrived.
bool board_answer(struct answer *answer);

// Writes the certificate with this SHA-256, and its key, to flash, and serves the certificate if `serve` is true. False:
// the flash cannot be written; the library tries again later.
bool board_write(const uint8_t fingerprint[32], bool serve);

// Sleeps until `board_millis()` has reached `until`, or an interrupt. Returns at once if an answer has arrived already: the
// firmware turns interrupts off, checks for an answer, and only then waits for an interrupt (on Arm: `wfi`).
void board_sleep(uint64_t until);
