// A board that a program on the host plays, in virtual time: sleeping takes none. The signer answers after two seconds, is
// unreachable once, and issues certificates that are valid for a day. Ends with the line `issued: N wakeups: N`.
#include "board.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int64_t boot_unix_millis = 1767225600000;
static const int64_t lifetime = 86400;

static uint64_t millis;
static struct answer pending;
static uint64_t pending_at;
static unsigned requests, issued, written, wakeups;

static void fail(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(1);
}

uint64_t board_millis(void) { return millis; }

int64_t board_unix_millis(void) { return boot_unix_millis + (int64_t)millis; }

void board_request(uint64_t id, const char *common_name, size_t length, bool new_key) {
    if (length != 8 || memcmp(common_name, "sensor-1", length) != 0) fail("another common name was requested");
    if (pending.id != 0) fail("a request was submitted while one was in flight");
    requests++;
    // The first request fails. Its key is used again; each rotation makes a new one.
    if (new_key == (requests == 2)) fail("the wrong key was requested");
    pending = (struct answer){.id = id, .status = requests == 1 ? 1 : 0};
    pending_at = millis + 2000;
}

bool board_answer(struct answer *answer) {
    if (pending.id == 0 || millis < pending_at) return false;
    if (pending.status == 0) {
        pending.not_before = board_unix_millis() / 1000;
        pending.not_after = pending.not_before + lifetime;
        pending.fingerprint[0] = (uint8_t)++issued;
    }
    *answer = pending;
    pending = (struct answer){0};
    return true;
}

bool board_write(const uint8_t fingerprint[32], bool serve) {
    if (fingerprint[0] != issued || !serve) fail("another certificate was written than the newest");
    // Each certificate, after the first, replaces one that is between 70 % and 90 % of its lifetime old.
    static uint64_t before;
    uint64_t age = millis - before, whole = (uint64_t)lifetime * 1000;
    if (written > 0 && (age < whole * 70 / 100 || age > whole * 91 / 100)) fail("rotated outside of the window");
    before = millis;
    written++;
    return true;
}

void board_sleep(uint64_t until) {
    wakeups++;
    if (written == 3) {
        printf("issued: %u wakeups: %u\n", written, wakeups);
        exit(0);
    }
    if (pending.id != 0 && pending_at < until) until = pending_at;
    if (until <= millis) fail("asked to sleep until a time that has passed");
    millis = until;
}

int main(void) { rotation_run(); }
