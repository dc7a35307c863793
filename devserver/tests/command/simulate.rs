//! `perennial-dev simulate`: its arguments, its numbers and its files.

use std::fs;
use std::path::Path;

use crate::support::perennial_dev;
use serde_json::Value;
use tempfile::TempDir;

/// The scenario of docs/simulation.md and of the plots in docs/plots.
const PUBLISHED: [&str; 6] = ["simulate", "--span", "14d", "--outage", "6h@10d", "--compare"];

fn succeeds(directory: &Path, arguments: &[&str]) -> String {
    let output = perennial_dev(directory, arguments);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stderr, "", "no progress bar outside a terminal");
    output.stdout
}

/// The JSON summary, without the times that the simulation took on this computer.
fn summary(arguments: &[&str]) -> Value {
    let stdout = succeeds(Path::new("."), &[&["simulate", "--nodes", "200", "--json"], arguments].concat());
    let mut summary: Value = serde_json::from_str(&stdout).unwrap();
    for program in summary["programs"].as_array_mut().unwrap() {
        let fields = program.as_object_mut().unwrap();
        assert!(fields.remove("rotations_per_second").unwrap().as_f64().unwrap() > 0.0);
        fields.remove("simulated_in_seconds").unwrap();
    }
    summary
}

#[test]
fn simulate_with_equal_arguments_prints_equal_numbers() {
    let arguments = ["--span", "10d", "--outage", "6h@3d", "--denied", "2%", "--restart-all", "5d"];
    let first = summary(&arguments);
    assert_eq!(first, summary(&arguments));
    assert_ne!(first, summary(&[&arguments[..], &["--seed", "1"]].concat()));
    let program = &first["programs"][0];
    assert_eq!(program["program"], "default");
    let [submissions, issued, denied, unreachable, abandoned, open] =
        ["submissions", "issued", "denied", "unreachable", "abandoned", "open"]
            .map(|field| program[field].as_u64().unwrap());
    assert_eq!(submissions, issued + denied + unreachable + abandoned + open, "{program}");
    assert!(denied > 20 && unreachable > 50 && program["expiries"].as_u64().unwrap() > 0, "{program}");
}

#[test]
fn simulate_writes_page_plots_and_numbers_that_agree() {
    let directory = TempDir::new().unwrap();
    let files = ["--csv", "numbers.csv", "--html", "page.html", "--svg", "new/plots"];
    let scenario = ["simulate", "--nodes", "100", "--span", "5d", "--outage", "6h@3d", "--compare", "--json"];
    let stdout = succeeds(directory.path(), &[&scenario[..], &files].concat());
    let summary: Value = serde_json::from_str(&stdout).unwrap();

    let numbers = fs::read_to_string(directory.path().join("numbers.csv")).unwrap();
    for program in summary["programs"].as_array().unwrap() {
        let name = program["program"].as_str().unwrap();
        let rows = numbers.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(','));
        let submissions: u64 = rows.map(|row| row.split(',').nth(1).unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(submissions, program["submissions"].as_u64().unwrap(), "{name}");
    }

    let page = fs::read_to_string(directory.path().join("page.html")).unwrap();
    assert_eq!(page.matches("<svg ").count(), 6, "load, ages, objects, herd, without, ratio");
    assert_eq!(page.matches("<figcaption>").count(), 6);
    for outside in ["<script", "<link", "<img", "@import", "url(", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    let addresses = page.matches("http").count() - page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count();
    assert_eq!(addresses, 0, "the page loads nothing");

    for name in ["load", "ages", "objects", "herd", "without", "ratio"] {
        let plot = fs::read_to_string(directory.path().join("new/plots").join(name).with_extension("svg")).unwrap();
        assert!(plot.starts_with("<svg ") && plot.contains("prefers-color-scheme:dark"), "{name}");
        assert!(plot.contains("<polyline ") && !plot.contains("#010203"), "{name}");
        assert!(plot.len() < 100_000, "{name}: {} bytes", plot.len());
    }
}

/// The page shows what the command prints today, except for the times on the computer of its author. Pixels of the
/// plots are not compared: they show the same numbers.
#[test]
fn documented_simulation_has_the_numbers_that_the_command_prints() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/simulation.md")).unwrap();
    let stdout = succeeds(Path::new("."), &PUBLISHED);
    assert!(page.contains(&PUBLISHED.join(" ")), "the page shows the command");
    for line in stdout.lines().filter(|line| !line.starts_with("simulated ")) {
        assert!(page.contains(line), "docs/simulation.md lacks this line:\n{line}\nof\n{stdout}");
    }
}

#[test]
fn simulate_refuses_wrong_arguments_with_the_expected_form() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    for (arguments, words) in [
        (&["--nodes", "0"][..], &["--nodes", "1..=10000000"][..]),
        (&["--lifetime", "10s"], &["--lifetime", "at least 1m"]),
        (&["--span", "forever"], &["--span", "this is not a duration", "30d"]),
        (&["--span", "0s"], &["--span", "longer than zero"]),
        (&["--span", "30y"], &["--span", "at most 20y"]),
        (&["--span=-3d"], &["--span", "not negative"]),
        (&["--outage", "6h"], &["--outage", "expected LENGTH@TIME"]),
        (&["--outage", "x@10d"], &["--outage", "LENGTH: this is not a duration"]),
        (&["--outage", "6h@soon"], &["--outage", "TIME: this is not a duration"]),
        (&["--outage", "6h@10d:fire"], &["--outage", "the kind is refused, 503 or signer"]),
        (&["--span", "2d", "--outage", "1h@5d"], &["--outage: 5d", "2d", "--span"]),
        (&["--span", "2d", "--restart-all", "2d"], &["--restart-all: 2d", "--span"]),
        (&["--denied", "2"], &["--denied", "expected a percentage", "2%"]),
        (&["--denied", "200%"], &["--denied", "expected a percentage"]),
        (&["--policy", "fast"], &["--policy", "default, kubelet, client-go"]),
        (&["--policy", "kubelet", "--compare"], &["--policy", "--compare"]),
        // A simulation of these ends after the time limit of a command: the paths are tried first.
        (&["--nodes", "10000000", "--span", "20y", "--csv", "missing/file"], &["cannot write missing/file"]),
        (&["--nodes", "10000000", "--span", "20y", "--html", "."], &["cannot write .: Is a directory"]),
        (&["--nodes", "10000000", "--span", "20y", "--svg", "file"], &["cannot create file"]),
    ] {
        let arguments = [&["simulate"], arguments].concat();
        perennial_dev(directory.path(), &arguments).expect_refusal(&arguments, words);
    }
}
