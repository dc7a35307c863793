//! The page of a simulation: one HTML file that needs no other file and no scripts.

use super::plot::Chart;
use super::summary::{Run, describe, rows};
use crate::fleet_options::Simulate;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;background:#fff;color:#222}\
h1{font-size:1.5rem}\
figure{margin:2rem 0}\
.scroll{overflow-x:auto}\
svg{display:block;width:100%;min-width:34rem;height:auto}\
figcaption{color:#555}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .75rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}\
th:first-child{text-align:left;font-weight:normal;white-space:normal;min-width:9rem}\
.part{padding-left:1.5rem!important;color:#555}\
@media (prefers-color-scheme:dark){body{background:#161616;color:#ddd}figcaption,.part{color:#aaa}}";

/// The page for these runs. None of its texts comes from outside: no text needs escaping.
pub(crate) fn page(options: &Simulate, runs: &[Run], charts: &[Chart]) -> String {
    let heading: String = runs.iter().map(|run| format!("<th scope=\"col\">{}</th>", run.program)).collect();
    let rows: String = rows(runs)
        .iter()
        .map(|row| {
            let cells: String = row.cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
            let class = if row.label.starts_with(' ') { " class=\"part\"" } else { "" };
            format!("<tr><th scope=\"row\"{class}>{}</th>{cells}</tr>\n", row.label.trim())
        })
        .collect();
    let figures: String = charts
        .iter()
        .map(|chart| {
            let svg = chart.svg();
            format!("<figure><div class=\"scroll\">{svg}</div><figcaption>{}</figcaption></figure>\n", chart.caption)
        })
        .collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>Simulation of certificate rotation</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Simulation of certificate rotation</h1>\n<p>{}.</p>\n\
         <div class=\"scroll\"><table>\n<tr><th></th>{heading}</tr>\n{rows}</table></div>\n{figures}</body>\n</html>\n",
        describe(options)
    )
}
