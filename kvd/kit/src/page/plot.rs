//! Charts as SVG inside the report: lines, distributions and bars, with named axes and units.
//!
//! Drawn by `plotters` without fonts, so nothing of the system is needed; the browser sets the letters. Axes and letters
//! take their colours from the page, so that a chart is readable in light and in dark.

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::{
    ChartBuilder, Color, DrawingArea, DrawingAreaErrorKind, IntoDrawingArea, IntoFont, IntoLogRange, IntoSegmentedCoord, LineSeries,
    PathElement, RGBColor, Ranged, Rectangle, SVGBackend, SegmentValue, SeriesLabelPosition, TextStyle,
};
use std::io;

/// Stroke of axes as it stands in the SVG; the page gives it a colour.
pub(super) const AXIS: &str = "#7F8081";
/// Stroke of grid lines as it stands in the SVG; the page gives it a colour.
pub(super) const GRID: &str = "#DDDEDF";
const AXIS_COLOUR: RGBColor = RGBColor(0x7F, 0x80, 0x81);
const GRID_COLOUR: RGBColor = RGBColor(0xDD, 0xDE, 0xDF);
/// Told apart by colour-blind eyes too, and on white as on black (after Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];
const SIZE: (u32, u32) = (860, 380);
/// Points that a line keeps: more than a screen can show.
const MOST_POINTS: usize = 1200;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawError = DrawingAreaErrorKind<io::Error>;

/// A finished chart.
#[derive(Debug, Clone)]
pub struct Plot(String);

/// What a chart's axes say. The unit belongs into the text: `latency (ms)`.
#[derive(Debug, Clone, Default)]
pub struct Axes {
    /// Heading of the chart.
    pub title: String,
    /// What runs to the right, and its unit.
    pub x: String,
    /// What runs upwards, and its unit.
    pub y: String,
    /// Powers of ten to the right: for latencies.
    pub x_log: bool,
}

/// One named line, or one named set of samples.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Points in order of x. What is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

impl Plot {
    /// The SVG element.
    pub fn svg(&self) -> &str {
        &self.0
    }
}

impl Axes {
    /// Axes with these texts.
    pub fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>) -> Axes {
        Axes { title: title.into(), x: x.into(), y: y.into(), x_log: false }
    }

    /// The same with powers of ten to the right.
    pub fn log_x(self) -> Axes {
        Axes { x_log: true, ..self }
    }
}

impl Series {
    /// A line.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points }
    }

    /// The distribution of samples: for each value the percentage of samples that are not above it.
    pub fn cdf(name: impl Into<String>, mut samples: Vec<f64>) -> Series {
        samples.retain(|value| value.is_finite());
        samples.sort_by(f64::total_cmp);
        let (count, step) = (samples.len(), samples.len().div_ceil(MOST_POINTS).max(1));
        let at = |nth: usize| (samples[nth], (nth + 1) as f64 / count as f64 * 100.0);
        let kept = (0..count).filter(|nth| nth % step == 0 || nth + 1 == count);
        Series { name: name.into(), points: kept.map(at).collect() }
    }
}

/// Lines, one for each series.
pub fn lines(axes: &Axes, series: &[Series]) -> Plot {
    let series: Vec<Series> = series.iter().map(|line| thinned(line, axes.x_log)).collect();
    let points = || series.iter().flat_map(|line| line.points.iter().copied());
    let (x_least, x_most) = range(points().map(|point| point.0), !axes.x_log);
    let (_, y_most) = range(points().map(|point| point.1), true);
    let (y_least, _) = range(points().map(|point| point.1).chain([0.0]), false);
    drawn(|area| {
        let y = y_least..y_most * 1.05;
        match axes.x_log {
            true => draw_lines(area, axes, &series, (x_least..x_most).log_scale(), y),
            false => draw_lines(area, axes, &series, plotters::coord::types::RangedCoordf64::from(x_least..x_most), y),
        }
    })
}

/// Distributions of samples, one for each series made by [`Series::cdf`]; upwards runs the percentage of samples.
pub fn cdf(axes: &Axes, series: &[Series]) -> Plot {
    lines(axes, series)
}

/// Named bars, from zero.
pub fn bars(axes: &Axes, values: &[(String, f64)]) -> Plot {
    let (_, most) = range(values.iter().map(|value| value.1), true);
    drawn(|area| {
        let names = values.len().max(1);
        let mut chart = builder(area, axes).build_cartesian_2d((0..names - 1).into_segmented(), 0.0..most * 1.1)?;
        let name = |value: &SegmentValue<usize>| match value {
            SegmentValue::CenterOf(nth) => values.get(*nth).map_or_else(String::new, |value| value.0.clone()),
            _ => String::new(),
        };
        let letters = letters();
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().x_labels(names).x_label_formatter(&name).y_label_formatter(&number);
        mesh.x_desc(&axes.x).y_desc(&axes.y).label_style(letters.clone()).axis_desc_style(letters);
        mesh.axis_style(AXIS_COLOUR).bold_line_style(GRID_COLOUR).light_line_style(plotters::style::TRANSPARENT).draw()?;
        chart.draw_series(values.iter().enumerate().filter(|(_, value)| value.1.is_finite()).map(|(nth, (_, value))| {
            let corners = [(SegmentValue::Exact(nth), 0.0), (SegmentValue::Exact(nth + 1), *value)];
            let mut bar = Rectangle::new(corners, COLOURS[nth % COLOURS.len()].filled());
            bar.set_margin(0, 0, 14, 14);
            bar
        }))?;
        Ok(())
    })
}

fn draw_lines<X>(area: &Area<'_>, axes: &Axes, series: &[Series], x: X, y: std::ops::Range<f64>) -> Result<(), DrawError>
where
    X: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = builder(area, axes).build_cartesian_2d(x, y)?;
    let letters = letters();
    let mut mesh = chart.configure_mesh();
    mesh.x_label_formatter(&number).y_label_formatter(&number).x_desc(&axes.x).y_desc(&axes.y);
    mesh.label_style(letters.clone()).axis_desc_style(letters.clone());
    mesh.axis_style(AXIS_COLOUR).bold_line_style(GRID_COLOUR).light_line_style(plotters::style::TRANSPARENT).draw()?;
    for (nth, line) in series.iter().enumerate() {
        let style = COLOURS[nth % COLOURS.len()].stroke_width(2);
        let drawn = chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        if !line.name.is_empty() {
            drawn.label(&line.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
    }
    if series.iter().any(|line| !line.name.is_empty()) {
        chart.configure_series_labels().position(SeriesLabelPosition::LowerRight).label_font(letters).margin(12).draw()?;
    }
    Ok(())
}

fn builder<'a, 'b>(area: &'a Area<'b>, axes: &Axes) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(12).margin_right(28).x_label_area_size(44).y_label_area_size(68);
    builder.caption(&axes.title, ("sans-serif", 17));
    builder
}

fn letters() -> TextStyle<'static> {
    ("sans-serif", 13).into_font().into()
}

fn drawn(draw: impl FnOnce(&Area<'_>) -> Result<(), DrawError>) -> Plot {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let result = draw(&area).and_then(|()| area.present());
        result.expect("drawing into a text cannot fail");
    }
    Plot(svg)
}

/// Least and most of what is finite, never equal, so that a chart of one point or none has axes too.
fn range(values: impl Iterator<Item = f64>, from_zero: bool) -> (f64, f64) {
    let (least, most) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
    let least = if from_zero { least.min(0.0) } else { least };
    match (least.is_finite() && most.is_finite(), least < most) {
        (true, true) => (least, most),
        (true, false) => (least, least + least.abs().max(1.0)),
        (false, _) => (if from_zero { 0.0 } else { 0.1 }, 1.0),
    }
}

/// Without what cannot be drawn, and no more than a screen can show. Keeps the first and the last point.
fn thinned(line: &Series, x_log: bool) -> Series {
    let finite = |point: &&(f64, f64)| point.0.is_finite() && point.1.is_finite() && (!x_log || point.0 > 0.0);
    let points: Vec<(f64, f64)> = line.points.iter().filter(finite).copied().collect();
    let (count, step) = (points.len(), points.len().div_ceil(MOST_POINTS).max(1));
    let kept = points.into_iter().enumerate().filter(|(nth, _)| nth % step == 0 || nth + 1 == count);
    Series { name: line.name.clone(), points: kept.map(|(_, point)| point).collect() }
}

/// Short, with as many digits as say something.
fn number(value: &f64) -> String {
    let size = value.abs();
    let text = match size {
        0.0 => return "0".into(),
        _ if size >= 1e6 => format!("{:.1}M", value / 1e6),
        _ if size >= 1e4 => format!("{:.0}k", value / 1e3),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 0.01 => format!("{value:.2}"),
        _ => return format!("{value:.0e}"),
    };
    match text.contains('.') && !text.ends_with('M') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_its_axes_and_its_lines() {
        let line = Series::new("reads", vec![(0.0, 1.0), (1.0, 3.0)]);
        let plot = lines(&Axes::new("Throughput", "time (s)", "GB/s"), &[line]);
        for text in ["Throughput", "time (s)", "GB/s", "reads"] {
            assert!(plot.svg().contains(text), "{text} in {}", plot.svg());
        }
        assert!(plot.svg().contains(AXIS) && plot.svg().contains(GRID));
    }

    #[test]
    fn a_name_with_markup_stays_text() {
        let plot = bars(&Axes::new("a <b>", "x", "y"), &[("<script>".into(), 1.0)]);
        assert!(!plot.svg().contains("<script>") && !plot.svg().contains("<b>"), "{}", plot.svg());
    }

    #[test]
    fn a_distribution_ends_at_a_hundred_percent_and_is_thinned() {
        let series = Series::cdf("all", (0..100_000).map(f64::from).collect());
        assert!(series.points.len() <= MOST_POINTS + 1);
        assert_eq!(series.points.last(), Some(&(99_999.0, 100.0)));
    }

    #[test]
    fn nothing_and_nonsense_are_drawn_as_empty_charts() {
        let odd = Series::new("odd", vec![(f64::NAN, 1.0), (0.0, f64::INFINITY), (-1.0, 2.0)]);
        for axes in [Axes::new("t", "x", "y"), Axes::new("t", "x", "y").log_x()] {
            assert!(lines(&axes, &[]).svg().contains("</svg>"));
            assert!(lines(&axes, std::slice::from_ref(&odd)).svg().contains("</svg>"));
        }
        assert!(bars(&Axes::new("t", "x", "y"), &[]).svg().contains("</svg>"));
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0.0, 0.5, 12.0, 1234.0, 45_000.0, 2.5e6, 0.0004].iter().map(number).collect();
        assert_eq!(shown, ["0", "0.5", "12", "1234", "45k", "2.5M", "4e-4"]);
    }
}
