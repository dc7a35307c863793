//! Output for a reader that may be slow: a bounded queue of lines, and a thread that writes them.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use crate::failure::Failure;
use crate::queue::{Entry, Queue};

/// Longest time that the process waits at its end for the reader of its log.
pub(crate) const OUTPUT: Duration = Duration::from_secs(1);
/// Longest time that the process waits at its end for the reader of its result, with `--once`.
pub(crate) const RESULT: Duration = Duration::from_secs(5);
/// Most bytes of lines queued for one reader. Lines beyond that are dropped.
const MOST: usize = 1 << 20;
/// Pause before a write is tried again. Needed if another process has made the pipe or terminal non-blocking, where a
/// write fails while the reader is slow.
const PAUSE: Duration = Duration::from_millis(10);

/// A queue of lines that a thread writes to standard error or standard output. Queueing a line never blocks.
#[derive(Clone)]
pub(crate) struct Lines(Queue<Vec<u8>>);

impl Lines {
    /// Starts a thread that writes queued lines to `to`, which errors call `what`. Where lines were dropped, the thread
    /// writes `notice(count)` with their number.
    ///
    /// # Errors
    /// If the system refuses a descriptor or a thread.
    pub(crate) fn to(to: &impl AsFd, what: &str, notice: fn(u64) -> String) -> Result<Self, Failure> {
        let queue = Queue::new(MOST);
        let lines = queue.clone();
        let to = to.as_fd().try_clone_to_owned().map(File::from);
        let started =
            to.and_then(|to| thread::Builder::new().name("lines".into()).spawn(move || write(&lines, to, notice)));
        match started {
            Ok(_) => Ok(Self(queue)),
            Err(error) => Err(Failure::Failed(format!("cannot set up {what}: {error}; raise ulimit -n and -u"))),
        }
    }

    /// Queues a line, which must end with a line break. If the queue is full, the line is dropped and counted.
    pub(crate) fn push(&self, line: Vec<u8>) {
        let bytes = line.len();
        self.0.push(line, bytes);
    }

    /// The number of lines that were not written, because the queue was full or the system refused the write.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    /// Waits until every queued line is written or dropped, for at most `within`. Returns false if a line is still
    /// queued.
    pub(crate) fn finish_within(&self, within: Duration) -> bool {
        self.0.finish_within(within)
    }
}

/// Queues each write as one line: `tracing_subscriber` writes a whole line at once.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(lines: &Queue<Vec<u8>>, mut to: impl Write, notice: fn(u64) -> String) {
    // Lines missing since the last notice, and whether the last line was cut in the middle.
    let (mut missing, mut cut) = (0, false);
    loop {
        let line = match lines.next() {
            Entry::Item(line) => line,
            Entry::Missing(count) => {
                missing += count;
                Vec::new()
            }
        };
        let mut text = if cut { b"\n".to_vec() } else { Vec::new() };
        if missing > 0 {
            text.extend_from_slice(notice(missing).as_bytes());
        }
        text.extend_from_slice(&line);
        let mut written = 0;
        match write_all(&mut to, &text, &mut written) {
            Ok(()) => (missing, cut) = (0, false),
            Err(_) => {
                // The reader has closed the pipe, or the disk is full: only the counter can report it.
                cut |= written > 0;
                let lost = u64::from(!line.is_empty());
                missing += lost;
                lines.count_dropped(lost);
            }
        }
    }
}

fn write_all(to: &mut impl Write, text: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < text.len() {
        match to.write(&text[*written..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _};
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use super::*;

    fn notice(count: u64) -> String {
        format!("{count} missing\n")
    }

    fn pipe() -> (PipeReader, Lines) {
        let (reader, writer) = io::pipe().unwrap();
        let lines = Lines::to(&writer, "a pipe", notice).unwrap();
        (reader, lines)
    }

    fn line(number: usize) -> Vec<u8> {
        format!("{number:0>999}\n").into_bytes()
    }

    #[test]
    fn full_queue_drops_lines_and_states_their_number() {
        let (mut reader, lines) = pipe();
        // More than the pipe and the queue hold while the reader does not read.
        (0..3000).for_each(|number| lines.push(line(number)));
        let dropped = lines.dropped();
        assert!((1000..2000).contains(&dropped), "{dropped}");
        assert!(!lines.finish_within(Duration::from_millis(10)));
        let read = thread::spawn(move || {
            let mut text = Vec::new();
            while !text.ends_with(b"\n9\n") {
                let mut part = [0; 4096];
                let count = reader.read(&mut part).unwrap();
                text.extend_from_slice(&part[..count]);
            }
            String::from_utf8(text).unwrap()
        });
        let end = Instant::now() + Duration::from_secs(60);
        while !lines.finish_within(Duration::from_secs(1)) {
            assert!(Instant::now() < end);
        }
        lines.push(b"9\n".to_vec());
        // One gap, or two if the pipe took lines while the queue was full already.
        let (mut expected, mut missing) = (0, 0);
        for text in read.join().unwrap().strip_suffix("9\n").unwrap().lines() {
            match text.strip_suffix(" missing") {
                Some(count) => {
                    let count: usize = count.parse().unwrap();
                    (expected, missing) = (expected + count, missing + count);
                }
                None => {
                    assert_eq!(text.parse(), Ok(expected));
                    expected += 1;
                }
            }
        }
        assert_eq!((expected, missing), (3000, usize::try_from(dropped).unwrap()));
        assert_eq!(lines.dropped(), dropped);
    }

    #[test]
    fn lines_without_reader_are_counted_as_dropped() {
        let (reader, lines) = pipe();
        drop(reader);
        (0..3).for_each(|number| lines.push(line(number)));
        assert!(lines.finish_within(Duration::from_secs(60)));
        assert_eq!(lines.dropped(), 3);
    }

    /// A writer that takes `room` bytes, fails once like a full disk, then takes everything.
    struct Full {
        room: usize,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Full {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.room = usize::MAX;
                return Err(ErrorKind::StorageFull.into());
            }
            let count = text.len().min(self.room);
            self.room -= count;
            self.text.lock().unwrap().extend_from_slice(&text[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_cut_by_failed_write_gets_line_break_before_next_line() {
        let text = Arc::default();
        let lines = Lines(Queue::new(MOST));
        let (queue, to) = (lines.0.clone(), Full { room: 5, text: Arc::clone(&text) });
        thread::spawn(move || write(&queue, to, notice));
        ["one\n", "two\n", "three\n"].iter().for_each(|line| lines.push(line.as_bytes().to_vec()));
        assert!(lines.finish_within(Duration::from_secs(60)));
        assert_eq!(String::from_utf8(text.lock().unwrap().clone()).unwrap(), "one\nt\n1 missing\nthree\n");
        assert_eq!(lines.dropped(), 1);
    }
}
