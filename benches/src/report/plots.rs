//! Plots of how cost grows.

use std::path::Path;

use plotters::prelude::*;

use crate::run::Results;
use crate::run::plan::GROWTH;

/// A line of a plot: its name, and its points.
type Line = (String, Vec<(f64, f64)>);

/// Draws the plots; returns title and file name of each.
pub(super) fn draw(results: &Results, folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut plots = Vec::new();
    for (index, group) in GROWTH.iter().enumerate() {
        let phase = group.phases.first().copied().unwrap_or_default();
        let lines = if index == 0 {
            by_phase(results, group.systems, group.phases)
        } else {
            by_scale(results, group.systems, phase)
        };
        if lines.iter().all(|(_, points)| points.is_empty()) {
            continue;
        }
        let what = if phase.starts_with("pub") {
            "messages received"
        } else {
            "calls"
        };
        let title = format!("{what} per second by {}", group.title);
        let file = format!("performance-{}.svg", group.title.replace(' ', "-"));
        plot(&folder.join(&file), &title, group.title, &lines)?;
        plots.push((title, file));
    }
    Ok(plots)
}

fn by_phase(results: &Results, systems: &[&str], phases: &[&str]) -> Vec<Line> {
    let line = |system: &&str| {
        let points = phases.iter().filter_map(|phase| {
            let number = phase.strip_prefix("rpc")?.parse::<f64>().ok()?;
            Some((
                number,
                results.spread(system, phase, |sample| sample.rate())?.median,
            ))
        });
        (system.trim_end_matches("@c1").to_owned(), points.collect())
    };
    systems.iter().map(line).collect()
}

/// One line per system, the points by the number after the `@` and its letter.
fn by_scale(results: &Results, systems: &[&str], phase: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for system in systems {
        let Some((base, scale)) = system.split_once('@') else {
            continue;
        };
        let Some(number) = scale.get(1..).and_then(|number| number.parse::<f64>().ok()) else {
            continue;
        };
        let Some(rate) = results.spread(system, phase, |sample| sample.rate()) else {
            continue;
        };
        let point = (number, rate.median);
        match lines.iter_mut().find(|(name, _)| name == base) {
            Some((_, points)) => points.push(point),
            None => lines.push((base.to_owned(), vec![point])),
        }
    }
    lines
}

fn plot(file: &Path, title: &str, across: &str, lines: &[Line]) -> anyhow::Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let right = points().map(|(x, _)| *x).fold(2.0, f64::max);
    let top = points().map(|(_, y)| *y).fold(1.0, f64::max) * 1.1;
    let area = SVGBackend::new(file, (720, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d((1.0..right * 1.05).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(across)
        .y_desc("per second")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (index, (name, points)) in lines.iter().enumerate() {
        let style = Palette99::pick(index).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}
