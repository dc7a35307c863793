//! A process that keeps certificates is killed at any moment: the last one or the one before is there, and the next
//! process goes on.

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/volume.rs"]
mod volume;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use pairs::{NODE, pair};
use perennial_pki::Credential;
use perennial_std::Directory;
use volume::{NOW, PREFIX};

/// Set in the child: the directory it writes to.
const WRITE_TO: &str = "PERENNIAL_TEST_WRITE_TO";
const PAIRS: [&str; 2] = ["even.pem", "odd.pem"];
const KILLS: u32 = if cfg!(debug_assertions) { 60 } else { 1000 };

#[test]
fn a_process_may_be_killed_at_any_moment() {
    if let Some(parent) = std::env::var_os(WRITE_TO) {
        write_for_ever(&PathBuf::from(parent));
    }
    let parent = tempfile::tempdir().unwrap();
    for (number, name) in (1..).zip(PAIRS) {
        std::fs::write(parent.path().join(name), pair(NODE, number).to_pem().as_bytes()).unwrap();
    }
    let pairs = PAIRS.map(|name| read(&parent.path().join(name)));
    let pems = PAIRS.map(|name| std::fs::read(parent.path().join(name)).unwrap());
    let pki = parent.path().join("pki");
    let begun = Instant::now();
    {
        let directory = Directory::open(&pki, PREFIX).unwrap();
        (0..4).for_each(|n| directory.write(&pairs[n % 2], NOW).unwrap());
    }
    let writes = begun.elapsed();
    let (mut written, mut in_the_middle, mut reads) = (0, 0, 0_u64);
    // What must be there: the last that was written, or the one that was begun.
    let mut last = 1;
    let (mut unended, mut most) = (0, 0);
    for kill in 0..KILLS {
        let mut child = start(parent.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // Never the same moment twice: the golden ratio spreads them over what some writes take.
        let moment = f64::from(kill) * 0.618_034 % 1.0;
        let first = lines.find_map(|line| line.strip_prefix("begun ")?.parse().ok()).unwrap();
        // Meanwhile others read what is in use.
        let until = Instant::now() + writes.mul_f64(moment);
        while Instant::now() < until {
            let current = pki.join("kubelet-client-current.pem");
            std::fs::read_link(&current).expect("no pair is in use");
            match std::fs::read(&current) {
                Ok(seen) => assert!(pems.contains(&seen), "kill {kill}: half a pair is in use"),
                // Followed the link, and was overtaken by a write that removed old pairs.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "kill {kill}"),
            }
            reads += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        unended += 1;
        let mut next = Some(first);
        for line in lines {
            match line.split_once(' ') {
                Some(("begun", pair)) => next = Some(pair.parse().unwrap()),
                Some(("written", pair)) => {
                    (last, next) = (pair.parse().unwrap(), None);
                    (written, unended) = (written + 1, 1);
                }
                // Cut short, or the harness's.
                _ => {}
            }
        }
        in_the_middle += u32::from(next.is_some());
        let directory = Directory::open(&pki, PREFIX).unwrap();
        let found = number(&pairs, &directory.load(NOW).unwrap().credential.expect("no pair").0);
        assert!(found == last || Some(found) == next, "kill {kill}: {found}, not {last} or {next:?}");
        assert_eq!(number(&pairs, &directory.recover(NOW).unwrap().credential.unwrap().0), found, "kill {kill}");
        let names: Vec<String> =
            std::fs::read_dir(&pki).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| name.ends_with(".pem") || name.ends_with(".lock")), "kill {kill}: {names:?}");
        // Lock, links, the two that are kept; and one for each write that was not seen to its end.
        assert!(names.len() <= 5 + unended, "kill {kill}: {names:?}");
        most = names.len().max(most);
        last = found;
    }
    println!(
        "kills: {KILLS} losses: 0 ({in_the_middle} in the middle of a write, {written} written, {reads} reads, \
         {most} names at most, {:?})",
        begun.elapsed()
    );
    assert!(in_the_middle > KILLS / 10 && written > 0);
}

fn read(path: &Path) -> Credential {
    Credential::from_pem(&std::fs::read(path).unwrap()).unwrap()
}

fn number(pairs: &[Credential], credential: &Credential) -> usize {
    pairs.iter().position(|pair| pair.chain() == credential.chain()).unwrap()
}

fn start(parent: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_may_be_killed_at_any_moment", "--nocapture"])
        .env(WRITE_TO, parent)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn write_for_ever(parent: &Path) -> ! {
    let pairs = PAIRS.map(|name| read(&parent.join(name)));
    let directory = Directory::open(parent.join("pki"), PREFIX).unwrap();
    let mut next = 1 - number(&pairs, &directory.recover(NOW).unwrap().credential.unwrap().0);
    let mut out = std::io::stdout();
    // After what the harness says.
    out.write_all(b"\n").unwrap();
    loop {
        // In one write each, so that a line is there or is not.
        out.write_all(format!("begun {next}\n").as_bytes()).unwrap();
        out.flush().unwrap();
        directory.write(&pairs[next], NOW).unwrap();
        out.write_all(format!("written {next}\n").as_bytes()).unwrap();
        out.flush().unwrap();
        next = 1 - next;
    }
}
