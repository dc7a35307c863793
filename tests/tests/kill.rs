//! A process that writes to a credential directory, or recovers one, is killed at any moment. The next process finds
//! the last pair that was written or whose write had begun, and continues from it.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial_pki::Credential;
use perennial_rotation::Directory;
use perennial_tests::disk::{NODE, NOW, PREFIX, pair};

/// An environment variable that makes this program a child process that writes pairs for ever. [`RECOVER_IN`] makes it
/// one that damages and recovers a directory again and again. The value of either is the directory to work in.
const WRITE_TO: &str = "PERENNIAL_TEST_WRITE_TO";
const RECOVER_IN: &str = "PERENNIAL_TEST_RECOVER_IN";
const CURRENT: &str = "kubelet-client-current.pem";
/// The file of the pair that the child process never damages.
const GOOD: &str = "kubelet-client-2020-01-01-00-00-00-000.pem";
const TORN: &str = "torn";
/// Makes the tests of this file run one at a time. Between fork and exec, a child process has all open files of its
/// parent, so that it would still hold a lock that another test has just released.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const PAIRS: [&str; 2] = ["even.pem", "odd.pem"];
/// The test measures this number of recoveries, and takes the mean as the duration of one.
const CYCLES: usize = 50;
const KILLS: u32 = if cfg!(debug_assertions) { 60 } else { 1000 };

/// A problem of another program: a reader finds an incomplete pair.
/// <https://github.com/spiffe/spiffe-helper/issues/250>
#[test]
fn kill_at_any_moment_loses_no_pair() {
    if let Some(parent) = std::env::var_os(WRITE_TO) {
        write_for_ever(&PathBuf::from(parent));
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let parent = tempfile::tempdir().unwrap();
    for (number, name) in (1..).zip(PAIRS) {
        fs::write(parent.path().join(name), pair(NODE, number).to_pem().as_bytes()).unwrap();
    }
    let pairs = PAIRS.map(|name| read(&parent.path().join(name)));
    let pems = PAIRS.map(|name| fs::read(parent.path().join(name)).unwrap());
    let pki = parent.path().join("pki");
    let begun = Instant::now();
    {
        let directory = Directory::open(&pki, PREFIX).unwrap();
        (0..4).for_each(|n| directory.write(&pairs[n % 2], NOW).unwrap());
    }
    let writes = begun.elapsed();
    let (mut written, mut in_the_middle, mut reads) = (0, 0, 0_u64);
    // The pair that must be found: the last one written, or the one whose write was begun.
    let mut last = 1;
    let (mut unended, mut most) = (0, 0);
    for kill in 0..KILLS {
        let mut child = start("kill_at_any_moment_loses_no_pair", WRITE_TO, parent.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // Never the same moment twice: the golden ratio spreads the kills over the time that some writes take.
        let moment = f64::from(kill) * 0.618_034 % 1.0;
        let first = lines.find_map(|line| line.strip_prefix("begun ")?.parse().ok()).unwrap();
        // Meanwhile readers open the pair in use.
        let until = Instant::now() + writes.mul_f64(moment);
        while Instant::now() < until {
            let current = pki.join(CURRENT);
            fs::read_link(&current).expect("no pair is in use");
            match fs::read(&current) {
                Ok(seen) => assert!(pems.contains(&seen), "kill {kill}: half a pair is in use"),
                // After this reader followed the link, a write removed the file as an old pair.
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
                // A line that the kill cut short, or a line of the test harness.
                _ => {}
            }
        }
        in_the_middle += u32::from(next.is_some());
        let directory = Directory::open(&pki, PREFIX).unwrap();
        let found = number(&pairs, &directory.load(None, NOW).unwrap().credential.expect("no pair").0);
        assert!(found == last || Some(found) == next, "kill {kill}: {found}, not {last} or {next:?}");
        assert_eq!(number(&pairs, &directory.recover(None, NOW).unwrap().credential.unwrap().0), found, "kill {kill}");
        let names = names(&pki);
        assert!(names.iter().all(|name| name.ends_with(".pem") || name.ends_with(".lock")), "kill {kill}: {names:?}");
        // Lock, links, two retained pairs, one pair issued later than the written one, and one file for each write
        // whose end was not observed.
        assert!(names.len() <= 6 + unended, "kill {kill}: {names:?}");
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

#[test]
fn kill_during_recovery_loses_no_pair() {
    if let Some(pki) = std::env::var_os(RECOVER_IN) {
        damage_and_recover_for_ever(&PathBuf::from(pki));
    }
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let parent = tempfile::tempdir().unwrap();
    let pki = parent.path().join("pki");
    let good = pair(NODE, 1);
    {
        let directory = Directory::open(&pki, PREFIX).unwrap();
        fs::write(pki.join(GOOD), good.to_pem().as_bytes()).unwrap();
        fs::set_permissions(pki.join(GOOD), Permissions::from_mode(0o600)).unwrap();
        // An unreadable file, which may be another program's pair.
        fs::write(pki.join("kubelet-client-2019-01-01-00-00-00-000.pem"), TORN).unwrap();
        (1..=4).for_each(|number| damage(&pki, number));
        assert_eq!(directory.recover(None, NOW).unwrap().credential.unwrap().0.chain(), good.chain());
    }
    let is_good = |directory: &Directory| {
        let found = directory.load(None, NOW).unwrap().credential;
        found.is_some_and(|(credential, _)| credential.chain() == good.chain())
    };
    let (mut in_the_middle, mut partly, mut recovered, mut cycle) = (0, 0, 0, Duration::ZERO);
    let begun = Instant::now();
    let mut kills = 0;
    // Chance decides where a kill falls, and a fast disk leaves it little room: more kills until each kind was seen.
    while kills < KILLS || (kills < KILLS * 20 && (in_the_middle <= KILLS / 10 || partly == 0)) {
        let kill = kills;
        kills += 1;
        let mut child = start("kill_during_recovery_loses_no_pair", RECOVER_IN, &pki);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.find(|line| line == "begun").unwrap();
        if kill % 20 == 0 {
            // The child runs ahead of its pipe: only many cycles take as long to read as to do.
            let first = Instant::now();
            assert_eq!(lines.by_ref().filter(|line| line == "recovered").take(CYCLES).count(), CYCLES);
            cycle = first.elapsed() / CYCLES as u32;
        }
        // Until the kill another `Directory` reads. The kill comes after two cycles on average, and so at any step of a
        // cycle alike.
        let until = Instant::now() + cycle.mul_f64(f64::from(kill) * 0.618_034 % 1.0 * 4.0);
        let other = Directory::open_existing(&pki, PREFIX).unwrap();
        while Instant::now() < until {
            assert!(is_good(&other), "kill {kill}: no pair is found");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut unfinished = true;
        for line in lines {
            unfinished = if line == "recovered" { false } else { unfinished || line == "begun" };
            recovered += u32::from(line == "recovered");
        }
        in_the_middle += u32::from(unfinished);
        // The recovery was killed between its link and the removal of leftovers.
        let left = names(&pki);
        let is_linked = fs::read_link(pki.join(CURRENT)).is_ok_and(|target| target == Path::new(GOOD));
        partly += u32::from(is_linked && left.iter().any(|name| name.ends_with(".new")));

        let directory = Directory::open(&pki, PREFIX).unwrap();
        assert!(is_good(&directory), "kill {kill}");
        let loaded = directory.recover(None, NOW).unwrap();
        assert_eq!(loaded.credential.unwrap().0.chain(), good.chain(), "kill {kill}");
        assert_eq!(fs::read_link(pki.join(CURRENT)).unwrap(), Path::new(GOOD), "kill {kill}");
        let there = names(&pki);
        assert!(there.iter().all(|name| !name.ends_with(".new") && !name.contains(".link")), "kill {kill}: {there:?}");
        let is_torn = |name: &&String| fs::read(pki.join(name)).is_ok_and(|bytes| bytes == TORN.as_bytes());
        assert!(there.iter().any(|name| is_torn(&name)), "kill {kill}: an unreadable file is gone: {there:?}");
    }
    println!(
        "kills: {kills} losses: 0 ({in_the_middle} before the end of a recovery, {partly} of which had begun to change \
         something, {recovered} recovered, {:?})",
        begun.elapsed()
    );
    assert!(in_the_middle > KILLS / 10 && partly > 0);
}

/// Makes `PREFIX-current.pem` dangle, and leaves the files of two interrupted updates.
fn damage(pki: &Path, number: u32) {
    let dated = format!("kubelet-client-2025-01-01-{:02}-{:02}-00-000.pem", number / 60 % 24, number % 60);
    let link = pki.join(format!("{dated}.link"));
    let _ = fs::remove_file(&link);
    symlink("gone.pem", &link).unwrap();
    fs::rename(&link, pki.join(CURRENT)).unwrap();
    fs::write(pki.join(format!("{dated}.new")), TORN).unwrap();
    symlink(&dated, &link).unwrap();
}

fn damage_and_recover_for_ever(pki: &Path) -> ! {
    let directory = Directory::open(pki, PREFIX).unwrap();
    let mut out = std::io::stdout();
    out.write_all(b"\n").unwrap();
    for number in 0.. {
        damage(pki, number);
        out.write_all(b"begun\n").unwrap();
        out.flush().unwrap();
        assert!(directory.recover(None, NOW).unwrap().credential.is_some());
        out.write_all(b"recovered\n").unwrap();
        out.flush().unwrap();
    }
    unreachable!()
}

fn read(path: &Path) -> Credential {
    Credential::from_pem(&fs::read(path).unwrap()).unwrap()
}

fn number(pairs: &[Credential], credential: &Credential) -> usize {
    pairs.iter().position(|pair| pair.chain() == credential.chain()).unwrap()
}

fn names(pki: &Path) -> Vec<String> {
    fs::read_dir(pki).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn start(test: &str, variable: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn write_for_ever(parent: &Path) -> ! {
    let pairs = PAIRS.map(|name| read(&parent.join(name)));
    let directory = Directory::open(parent.join("pki"), PREFIX).unwrap();
    let mut next = 1 - number(&pairs, &directory.recover(None, NOW).unwrap().credential.unwrap().0);
    let mut out = std::io::stdout();
    // Ends the line that the test harness began.
    out.write_all(b"\n").unwrap();
    loop {
        // One write per line, so that a line is complete or missing.
        out.write_all(format!("begun {next}\n").as_bytes()).unwrap();
        out.flush().unwrap();
        directory.write(&pairs[next], NOW).unwrap();
        out.write_all(format!("written {next}\n").as_bytes()).unwrap();
        out.flush().unwrap();
        next = 1 - next;
    }
}
