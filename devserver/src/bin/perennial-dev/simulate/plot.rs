//! Charts as SVG. Text and axes have the colour of the text around them, so that a chart is readable on light and on
//! dark pages.

use std::io;

use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The size of every chart, in pixels.
const SIZE: (u32, u32) = (800, 360);
/// The height of title and legend.
const HEADING: u32 = 52;
/// Stands for the colour of the text around the chart. No series has this colour.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_HEX: &str = "\"#010203\"";
const FONT: &str = "sans-serif";

type DrawingError = DrawingAreaErrorKind<io::Error>;

/// A line of a chart.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) color: RGBColor,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart with one or more lines.
pub(crate) struct Chart {
    /// The name of the chart's file, without extension.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    /// A description of the chart for the reader, in a sentence or two.
    pub(crate) caption: String,
    pub(crate) x: (f64, f64),
    pub(crate) x_label: &'static str,
    pub(crate) y_label: &'static str,
    /// True if the y axis is logarithmic and begins at one; otherwise the axis is linear and begins at zero.
    pub(crate) is_logarithmic: bool,
    /// In the order of the legend. The first line is drawn last, above the others.
    pub(crate) lines: Vec<Line>,
}

impl Chart {
    /// The chart as an element `svg` of a page.
    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        // Errors come from writing, and a string takes any text.
        let drawn = self.draw(&mut svg);
        debug_assert!(drawn.is_ok(), "{drawn:?}");
        let label = format!("<svg role=\"img\" aria-label=\"{}\" ", self.title);
        svg.replacen("<svg ", &label, 1).replace(INK_HEX, "\"currentColor\"").replace("\n\n", "\n")
    }

    /// The chart as a file of its own, which follows the colour scheme of the reader.
    pub(crate) fn file(&self) -> String {
        const STYLE: &str = "<style>svg{color:#222;background:#fff}\
            @media (prefers-color-scheme:dark){svg{color:#ddd;background:#161616}}</style>";
        self.svg().replacen('>', &format!(">\n{STYLE}"), 1)
    }

    fn draw(&self, svg: &mut String) -> Result<(), DrawingError> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let (heading, body) = root.split_vertically(HEADING);
        let title = (FONT, 17).into_font().color(&INK);
        heading.draw(&Text::new(self.title.clone(), (14, 8), title))?;
        let mut left = 14;
        for line in &self.lines {
            heading.draw(&Rectangle::new([(left, 38), (left + 18, 42)], line.color.filled()))?;
            let name = (FONT, 13).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            heading.draw(&Text::new(line.name.clone(), (left + 24, 40), name))?;
            // No font is measured: seven pixels are more than a letter of this size takes on average.
            left += 24 + 7 * i32::try_from(line.name.chars().count()).unwrap_or(0) + 28;
        }
        let highest = self.lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(0.0, f64::max);
        let top = if highest > 0.0 { highest * 1.05 } else { 1.0 };
        let mut builder = ChartBuilder::on(&body);
        builder.margin(8).margin_right(20).x_label_area_size(44).y_label_area_size(70);
        let x = self.x.0..self.x.1;
        if self.is_logarithmic {
            let chart = builder.build_cartesian_2d(x, (1.0..top.max(10.0)).log_scale())?;
            self.plot(chart)?;
        } else {
            self.plot(builder.build_cartesian_2d(x, 0.0..top)?)?;
        }
        root.present()?;
        Ok(())
    }

    fn plot<'a, Y>(
        &self,
        mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>,
    ) -> Result<(), DrawingError>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let label = (FONT, 13).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .bold_line_style(INK.mix(0.15))
            .axis_style(INK)
            .label_style(label.clone())
            .axis_desc_style(label)
            .x_labels(10)
            .y_labels(6)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .draw()?;
        for line in self.lines.iter().rev() {
            chart.draw_series(LineSeries::new(line.points.iter().copied(), line.color.stroke_width(2)))?;
        }
        Ok(())
    }
}

/// A number of an axis: as few digits as it has.
fn short(number: f64) -> String {
    let rounded = (number * 1000.0).round() / 1000.0;
    if rounded.abs() >= 10_000.0 {
        return super::summary::grouped(rounded.abs().round() as u64);
    }
    // Minus zero would show its sign.
    (rounded + 0.0).to_string()
}
