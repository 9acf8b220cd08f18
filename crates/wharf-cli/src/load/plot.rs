//! Curves as SVG. Colours are classes, which the page around gives a colour in each scheme.

use maud::{Markup, html};

/// A picture of one or a few curves over the same axes; the y axis starts at 0.
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) x: Axis,
    /// How a value is written beside the y axis.
    pub(crate) y_text: fn(f64) -> String,
    pub(crate) curves: Vec<Curve>,
}

/// What the x axis says.
pub(crate) enum Axis {
    /// Time from the first point on.
    Seconds,
    /// These places, each with its label.
    Marks(Vec<(f64, String)>),
}

pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Plot {
    pub(crate) fn has_points(&self) -> bool {
        self.curves.iter().any(|curve| !curve.points.is_empty())
    }

    pub(crate) fn svg(&self) -> Markup {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let x_max = points().map(|point| point.0).fold(0.0, f64::max);
        let y_step = step(points().map(|point| point.1).fold(0.0, f64::max) / 4.0);
        let y_max = points().map(|point| point.1).fold(0.0, f64::max).max(y_step);
        let lines = (y_max / y_step).ceil();
        let left = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * x / x_max.max(f64::MIN_POSITIVE);
        let top = |y: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - y / (lines * y_step));
        let path = |curve: &Curve| {
            let to = |(index, &(x, y)): (usize, &(f64, f64))| {
                let command = if index == 0 { 'M' } else { 'L' };
                format!("{command}{:.1} {:.1}", left(x), top(y))
            };
            curve.points.iter().enumerate().map(to).collect::<String>()
        };
        let y_marks = (0..=lines as u32).map(|line| f64::from(line) * y_step);
        html! {
            figure {
                figcaption {
                    (self.title)
                    @if self.curves.len() > 1 {
                        @for curve in &self.curves { i class=(curve.class) { (curve.name) } }
                    }
                }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.title) {
                    @for y in y_marks {
                        line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(format!("{:.1}", top(y)))
                            y2=(format!("{:.1}", top(y))) {}
                        text x=(LEFT - 6.0) y=(format!("{:.1}", top(y) + 4.0)) text-anchor="end" {
                            ((self.y_text)(y))
                        }
                    }
                    @for (x, label) in self.x_marks(x_max) {
                        text x=(format!("{:.1}", left(x))) y=(HEIGHT - 6.0) text-anchor="middle" {
                            (label)
                        }
                    }
                    @for curve in &self.curves { path class=(curve.class) d=(path(curve)) {} }
                }
            }
        }
    }

    fn x_marks(&self, x_max: f64) -> Vec<(f64, String)> {
        match &self.x {
            Axis::Marks(marks) => marks.iter().filter(|mark| mark.0 <= x_max).cloned().collect(),
            Axis::Seconds => {
                let step = step(x_max / 5.0);
                let count = (x_max / step) as u32;
                let mark = |index| f64::from(index) * step;
                (0..=count)
                    .map(|index| (mark(index), format!("{} s", rounded(mark(index)))))
                    .collect()
            }
        }
    }
}

/// The round number at or above this: 1, 2 or 5 times a power of ten.
fn step(at_least: f64) -> f64 {
    if at_least <= 0.0 || !at_least.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(at_least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= at_least * 0.999_999);
    factor.unwrap_or(10.0) * power
}

/// Without the digits that only arithmetic made.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 240.0;
/// Room for the labels.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 30.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_large_enough() {
        for (at_least, expected) in
            [(0.3, 0.5), (1.0, 1.0), (1.1, 2.0), (26.0, 50.0), (51.0, 100.0), (0.0, 1.0)]
        {
            assert!((step(at_least) - expected).abs() < 1e-9, "{at_least}: {}", step(at_least));
        }
    }

    #[test]
    fn a_plot_has_its_curves_and_lies_within_its_frame() {
        let points = vec![(0.0, 0.0), (5.0, 930.0), (10.0, 12.0)];
        let plot = Plot {
            title: "a <title>",
            x: Axis::Seconds,
            y_text: |y| format!("{y}"),
            curves: vec![Curve { name: "c", class: "a", points }],
        };
        let svg = plot.svg().into_string();
        assert!(
            svg.contains("a &lt;title&gt;") && svg.contains("<path class=\"a\" d=\"M"),
            "{svg}"
        );
        assert!(svg.contains(">1000<") && svg.contains(">10 s<"), "{svg}");
        let empty = Plot { curves: Vec::new(), ..plot };
        assert!(!empty.has_points() && empty.svg().into_string().contains("<svg"));
    }
}
