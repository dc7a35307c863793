//! A library for LD_PRELOAD whose functions hang or fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Builds the library and returns its path. Environment variables of the process select the faults: HANG_LOOKUP makes
/// name lookups hang, as with a resolver that does not answer, and HANG_WRITE=WORD makes writes hang to files whose
/// path contains the word, as with a disk that does not answer. HANG_OPEN=WORD makes opens of such files hang once a
/// file `hung` exists in the current directory. FULL_DISK=WORD makes writes fail to files whose path contains the word,
/// as on a full disk. These faults last until a file `freed` exists in the current directory. MOST_THREADS=N limits the
/// threads of the process, as RLIMIT_NPROC does for users other than root.
pub(crate) fn library() -> &'static Path {
    const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Returns once a file `freed` exists in the current directory. */
static void hang(void) {
    static const char line[] = "hanging\n";
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    real(2, line, sizeof line - 1);
    while (access("freed", F_OK)) usleep(10000);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    if (getenv("HANG_LOOKUP")) hang();
    return real(node, service, hints, found);
}

int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    const char *word = getenv("HANG_OPEN");
    if (word && strstr(path, word) && !access("hung", F_OK)) hang();
    return real(path, flags, mode);
}

/* Whether the environment variable is set, and the file is a regular one whose path contains the variable's word. */
static int is_of(int fd, const char *variable) {
    const char *word = getenv(variable);
    struct stat file;
    if (!word || fstat(fd, &file) || !S_ISREG(file.st_mode)) return 0;
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof path - 1) > 0 && strstr(path, word);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    if (is_of(fd, "HANG_WRITE")) hang();
    if (is_of(fd, "FULL_DISK") && access("freed", F_OK)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, bytes, count);
}

struct start { void *(*run)(void *); void *with; };
static int threads;

static void *counted(void *given) {
    struct start start = *(struct start *)given;
    free(given);
    void *result = start.run(start.with);
    __sync_fetch_and_sub(&threads, 1);
    return result;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
    const char *most = getenv("MOST_THREADS");
    if (!most) return real(thread, how, run, with);
    if (__sync_add_and_fetch(&threads, 1) > atoi(most)) {
        __sync_fetch_and_sub(&threads, 1);
        return EAGAIN;
    }
    struct start *start = malloc(sizeof *start);
    *start = (struct start){ run, with };
    return real(thread, how, counted, start);
}
"#;
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Built under another name, since several test programs may build the library at once.
        let (source, library) = (place.join(format!("preload-{}.c", std::process::id())), place.join("preload.so"));
        fs::write(&source, SOURCE).unwrap();
        let mut compiler = Command::new("cc");
        let built = source.with_extension("so");
        compiler.args(["-shared", "-fPIC", "-o"]).args([&built, &source]).arg("-ldl");
        assert!(compiler.status().unwrap().success());
        fs::remove_file(source).unwrap();
        fs::rename(built, &library).unwrap();
        library
    })
}
