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
