//! The page that `seed report` writes: one file of HTML, which asks for nothing, runs nothing, and needs no network.
//!
//! What is drawn is SVG. Names come from seeds, and so from anybody: all text is escaped, and the page forbids itself
//! scripts and outside resources.

mod chart;

use std::fmt::{self, Display, Write};
use std::time::Duration;

use seed_fuse::mount::{Report, Use};

use crate::printer::{bytes, seconds};

/// Most store paths and layers that are shown.
const MAX_ROWS: usize = 30;

const STYLE: &str = include_str!("page/style.css");

/// The page of these mounts, in this order.
pub(crate) fn page(reports: &[Report]) -> String {
    let mut page = String::new();
    let written = write_page(&mut page, reports);
    written.expect("writing to memory does not fail");
    page
}

fn write_page(page: &mut String, reports: &[Report]) -> fmt::Result {
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Nix Seed: mounts</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}</style>\n</head>\n<body>"
    )?;
    for report in reports {
        write_mount(page, report)?;
    }
    if reports.is_empty() {
        page.write_str("<main><h1>No seed is mounted</h1></main>")?;
    }
    page.write_str("</body>\n</html>\n")
}

fn write_mount(page: &mut String, report: &Report) -> fmt::Result {
    let Report { state, stats, whole, .. } = report;
    writeln!(
        page,
        "<main>\n<header>\n<h1>{}</h1>\n<p class=\"seed\">{}</p>\n<p class=\"how\">{} · process {} · mounted for {} · {} resident</p>\n</header>",
        Text(&state.directory.display()),
        Text(&state.reference),
        Text(&state.shown.mode),
        state.pid,
        seconds(Duration::from_micros(report.age)),
        bytes(report.resident),
    )?;
    let gaps = stats.bytes_fetched.saturating_sub(whole.fetched);
    let wait = Duration::from_micros(stats.demand_wait_us);
    let tiles = [
        (
            "fetched",
            bytes(stats.bytes_fetched),
            format!("of {} in {} requests", bytes(whole.bytes), stats.requests),
        ),
        ("read", bytes(whole.read), format!("{:.1} % of the seed", percent(whole.read, whole.bytes))),
        ("reads that waited", stats.demand_misses.to_string(), format!("{} together", seconds(wait))),
        ("fetched, not read", bytes(whole.wasted), format!("and {} between chunks", bytes(gaps))),
        ("from cache", stats.cache_hits.to_string(), format!("chunks; {} from memory", stats.memory_hits)),
    ];
    page.write_str("<section class=\"tiles\">\n")?;
    for (name, value, more) in tiles {
        writeln!(page, "<div><h2>{name}</h2><b>{value}</b><span>{more}</span></div>")?;
    }
    page.write_str("</section>\n")?;
    chart::timeline(page, report)?;
    page.write_str("<div class=\"pair\">\n")?;
    chart::waits(page, report)?;
    write_uses(page, "Layers", &report.layers, 12)?;
    page.write_str("</div>\n")?;
    write_uses(page, "Store paths", &report.paths, MAX_ROWS)?;
    page.write_str("<section><h2>Counters</h2>\n<table class=\"counters\">\n")?;
    for (name, help, value) in stats.each() {
        writeln!(
            page,
            "<tr><th>{}</th><td class=\"number\" data-counter=\"{name}\">{value}</td><td>{}</td></tr>",
            name.replace('_', " "),
            Text(&help.trim())
        )?;
    }
    page.write_str("</table></section>\n</main>\n")
}

/// A table of layers or store paths, with a bar for each: what was read, what came for nothing, what did not come.
fn write_uses(page: &mut String, title: &str, uses: &[Use], rows: usize) -> fmt::Result {
    let mut order: Vec<_> = uses.iter().collect();
    order.sort_by(|a, b| (b.fetched, b.bytes).cmp(&(a.fetched, a.bytes)).then_with(|| a.name.cmp(&b.name)));
    let most = order.iter().take(rows).map(|part| part.bytes).max().unwrap_or(0);
    writeln!(
        page,
        "<section><h2>{title}</h2>\n<p class=\"legend\"><i class=\"read\"></i>read <i class=\"wasted\"></i>fetched, not read \
         <i class=\"rest\"></i>not fetched</p>\n<table class=\"uses\">\n<tr><th></th><th></th><th>fetched</th><th>read</th>\
         <th>waits</th></tr>"
    )?;
    for part in order.iter().take(rows) {
        let Use { name, bytes: all, fetched, read, wasted, misses, wait } = part;
        let waits = match misses {
            0 => String::new(),
            _ => format!("{misses} · {}", seconds(Duration::from_micros(*wait))),
        };
        // A quiet part keeps a bar that can be seen.
        let scale = |part: u64| 100.0 * (part as f64).sqrt() / (most.max(1) as f64).sqrt();
        let share = |part: u64| percent(part, *all);
        writeln!(
            page,
            "<tr><td class=\"name\" title=\"{0}\">{1}</td><td class=\"bar\"><div style=\"width:{2:.1}%\">\
             <i class=\"read\" style=\"width:{3:.2}%\"></i><i class=\"wasted\" style=\"width:{4:.2}%\"></i></div></td>\
             <td class=\"number\">{5}</td><td class=\"number\">{6}</td><td class=\"number\">{7}</td></tr>",
            Text(name),
            Text(&short(name)),
            scale(*all),
            share((*read).min(*all)),
            share(*wasted),
            bytes(*fetched),
            bytes(*read),
            waits
        )?;
    }
    if order.len() > rows {
        writeln!(page, "<tr><td class=\"more\" colspan=\"5\">and {} more</td></tr>", order.len() - rows)?;
    }
    page.write_str("</table></section>\n")
}

/// A digest by its first digits; a store path by its name, which says more than its hash part.
fn short(name: &str) -> String {
    match name.strip_prefix("sha256:") {
        Some(digits) => digits.chars().take(12).collect(),
        None => name.split_once('-').map_or(name, |(_, name)| name).to_owned(),
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// Text, as HTML wants it.
struct Text<'a>(&'a dyn Display);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(Text(&"<a href='x'>&\"").to_string(), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }

    #[test]
    fn names_are_short() {
        assert_eq!(short(&format!("sha256:{}", "a".repeat(64))), "a".repeat(12));
        assert_eq!(short("00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60"), "net-tools-1.60");
    }
}
