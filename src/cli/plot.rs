//! The two pictures of a run, as SVG.

use std::error::Error as StdError;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use pr_lstm::evaluate::LengthAccuracy;
use pr_lstm::{Error, Result};

use super::run_folder::Row;

const SIZE: (u32, u32) = (720, 400);
/// Most points of a curve; more are averaged.
const POINTS: usize = 600;
const CURVE: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const SHADE: RGBColor = RGBColor(0xe4, 0xea, 0xf2);

/// Loss against step.
pub fn loss(path: &Path, title: &str, rows: &[Row]) -> Result<()> {
    let per_point = rows.len().div_ceil(POINTS).max(1);
    let points: Vec<(f64, f64)> = rows
        .chunks(per_point)
        .map(|rows| {
            let mean = rows.iter().map(|row| f64::from(row.metrics.loss)).sum::<f64>() / rows.len() as f64;
            (rows[rows.len() - 1].metrics.step as f64, mean)
        })
        .collect();
    let last = points.last().map_or(1.0, |point| point.0);
    let top = points.iter().map(|point| point.1).filter(|loss| loss.is_finite()).fold(0.0, f64::max);
    let axes =
        Axes { x: 0.0..last.max(1.0), y: 0.0..(top * 1.05).max(1e-6), x_name: "step", y_name: "loss (nats)" };
    draw(path, title, axes, None, points)
}

/// Accuracy against length, the lengths trained on shaded.
pub fn accuracy(path: &Path, title: &str, trained: usize, results: &[LengthAccuracy]) -> Result<()> {
    let points: Vec<(f64, f64)> =
        results.iter().map(|result| (result.length as f64, result.accuracy)).collect();
    let last = points.last().map_or(1.0, |point| point.0);
    let axes = Axes {
        x: 0.0..last.max(1.0),
        y: 0.0..1.04,
        x_name: "length (shaded: trained on)",
        y_name: "accuracy",
    };
    draw(path, title, axes, Some(trained as f64), points)
}

struct Axes {
    x: Range<f64>,
    y: Range<f64>,
    x_name: &'static str,
    y_name: &'static str,
}

fn draw(path: &Path, title: &str, axes: Axes, shaded: Option<f64>, points: Vec<(f64, f64)>) -> Result<()> {
    let mut svg = String::new();
    draw_into(&mut svg, title, axes, shaded, points)
        .map_err(|error| Error::File { path: path.into(), problem: format!("cannot draw: {error}") })?;
    pr_lstm::model::write_atomically(path, svg.as_bytes())
}

fn draw_into(
    svg: &mut String,
    title: &str,
    axes: Axes,
    shaded: Option<f64>,
    points: Vec<(f64, f64)>,
) -> Result<(), Box<dyn StdError>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let top = axes.y.end;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(axes.x, axes.y)?;
    if let Some(trained) = shaded {
        chart.draw_series([Rectangle::new([(0.0, 0.0), (trained, top)], SHADE.filled())])?;
    }
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_desc(axes.x_name)
        .y_desc(axes.y_name)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(("sans-serif", 13))
        .draw()?;
    chart.draw_series(LineSeries::new(points, CURVE.stroke_width(2)))?;
    root.present()?;
    Ok(())
}

/// A panel of [`times`]: what it is of, and for each contender seconds against length.
pub struct Panel {
    pub title: String,
    pub curves: Vec<(String, Vec<(f64, f64)>)>,
}

/// Colours of curves, in their order; a thirteenth has the first again.
const CURVES: [RGBColor; 12] = [
    RGBColor(0x1f, 0x5f, 0xa8),
    RGBColor(0x6b, 0xae, 0xd6),
    RGBColor(0x08, 0x8d, 0x7a),
    RGBColor(0x7f, 0xc9, 0x7f),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0xb3, 0x1b, 0x1b),
    RGBColor(0xe7, 0x8a, 0xc3),
    RGBColor(0x75, 0x50, 0xa8),
    RGBColor(0x8c, 0x6d, 0x31),
    RGBColor(0x40, 0x40, 0x40),
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0xc5, 0xb0, 0x00),
];
const PANEL: (u32, u32) = (380, 420);
const LEGEND: u32 = 190;

/// Time against length, both logarithmic: panels side by side, and on the right which curve is whose.
pub fn times(path: &Path, title: &str, panels: &[Panel]) -> Result<()> {
    let mut svg = String::new();
    times_into(&mut svg, title, panels)
        .map_err(|error| Error::File { path: path.into(), problem: format!("cannot draw: {error}") })?;
    pr_lstm::model::write_atomically(path, svg.as_bytes())
}

fn times_into(svg: &mut String, title: &str, panels: &[Panel]) -> Result<(), Box<dyn StdError>> {
    let width = PANEL.0 * panels.len() as u32;
    let root = SVGBackend::with_string(svg, (width + LEGEND, PANEL.1)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 18))?;
    let (charts, legend) = root.split_horizontally(width);
    let points = || panels.iter().flat_map(|panel| &panel.curves).flat_map(|(_, points)| points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (least, most) =
            points().map(of).fold((f64::INFINITY, 0.0f64), |(least, most), x| (least.min(x), most.max(x)));
        least * 0.8..most * 1.25
    };
    let (x, y) = (range(|point| point.0), range(|point| point.1));
    for (panel, area) in panels.iter().zip(charts.split_evenly((1, panels.len()))) {
        let mut chart = ChartBuilder::on(&area)
            .caption(&panel.title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.1))
            .x_desc("length T")
            .y_desc("seconds")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0e}"))
            .label_style(("sans-serif", 12))
            .draw()?;
        for ((_, points), color) in panel.curves.iter().zip(CURVES.iter().cycle()) {
            chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        }
    }
    let names = panels.first().map(|panel| &panel.curves).into_iter().flatten();
    for (row, ((name, _), color)) in (0..).zip(names.zip(CURVES.iter().cycle())) {
        let y = 40 + 20 * row;
        legend.draw(&PathElement::new([(8, y), (30, y)], color.stroke_width(3)))?;
        legend.draw(&Text::new(name.clone(), (36, y - 6), ("sans-serif", 13)))?;
    }
    root.present()?;
    Ok(())
}
