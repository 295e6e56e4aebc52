//! A line plot as SVG, with points, a legend and a linear or logarithmic vertical scale; needs no other program.
//!
//! Only draws; the numbers themselves are in the JSON beside the plot.

use std::fmt::Write as _;

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 460.0;
/// Margins: the scale on the left, the legend on the right, the title above, the label below.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 220.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// Colours that people with a colour vision deficiency can tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// A line with more points has no circle at each.
const POINTS_SHOWN: usize = 60;
/// Marks on a horizontal axis whose points are too many to mark each.
const TICKS: usize = 6;

/// The vertical scale of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero, or the least value if that is less.
    Linear,
    /// Whole decades. Points that are not above zero are left out.
    Logarithmic,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The title above it.
    pub title: String,
    /// The label below the horizontal axis.
    pub across: String,
    /// The label of the vertical axis.
    pub upwards: String,
    /// The vertical scale.
    pub scale: Scale,
    /// Its lines.
    pub lines: Vec<PlotLine>,
}

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct PlotLine {
    /// Its name.
    pub name: String,
    /// Whether it is dashed.
    pub is_dashed: bool,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

impl Plot {
    /// The plot as the text of an SVG file.
    pub fn to_svg(&self) -> String {
        let points =
            || self.lines.iter().flat_map(|line| line.points.iter().copied()).filter(|point| self.shows(point));
        let furthest = points().map(|(x, _)| x).fold(1e-9, f64::max);
        let marks = self.marks(points().map(|(_, y)| y));
        let place = |y: f64| if self.scale == Scale::Logarithmic { y.log10() } else { y };
        let (low, high) = (place(marks[0]), place(marks[marks.len() - 1]));
        let across = |x: f64| LEFT + x / furthest * (WIDTH - LEFT - RIGHT);
        let upwards = |y: f64| TOP + (high - place(y)) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let mut text = |x: f64, y: f64, anchor: &str, more: &str, words: &str| {
            let words = escape(words);
            // Writing to a String cannot fail.
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{words}</text>");
        };
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        text(middle, 25.0, "middle", " font-size=\"16\"", &self.title);
        text(middle, HEIGHT - 15.0, "middle", "", &self.across);
        text(18.0, HEIGHT / 2.0, "middle", &format!(" transform=\"rotate(-90 18 {})\"", HEIGHT / 2.0), &self.upwards);
        let ticks = ticks(points().map(|(x, _)| x).collect(), furthest);
        ticks.iter().for_each(|x| text(across(*x), HEIGHT - BOTTOM + 20.0, "middle", "", &format!("{x}")));
        marks.iter().for_each(|y| text(LEFT - 8.0, upwards(*y) + 4.0, "end", "", &format!("{y}")));
        for y in marks {
            let (y, end) = (upwards(y), WIDTH - RIGHT);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"#ccc\"/>");
        }
        let count = self.lines.len();
        for ((number, line), colour) in self.lines.iter().enumerate().zip(COLOURS.iter().cycle()) {
            let drawn = line.points.iter().filter(|point| self.shows(point));
            let drawn: Vec<_> = drawn.map(|(x, y)| (across(*x), upwards(*y))).collect();
            let path: Vec<_> = drawn.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let dash = if line.is_dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let (begin, end) = (WIDTH - RIGHT + 15.0, WIDTH - RIGHT + 45.0);
            let y = TOP + 20.0 * number as f64;
            // Where lines coincide, the earlier ones are seen at the sides of the later ones.
            let width = 2.0 + 1.5 * (count - 1 - number) as f64;
            let stroke = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{dash}");
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" {stroke}/>\n<path d=\"M{begin} {y}H{end}\" {stroke}/>\n<text x=\"{:.1}\" \
                 y=\"{:.1}\">{}</text>",
                path.join(" "),
                end + 6.0,
                y + 4.0,
                escape(&line.name),
            );
            if drawn.len() <= POINTS_SHOWN {
                for (x, y) in drawn {
                    let radius = width / 2.0 + 2.0;
                    let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>");
                }
            }
        }
        svg + "</svg>\n"
    }

    fn shows(&self, (x, y): &(f64, f64)) -> bool {
        x.is_finite() && y.is_finite() && (*y > 0.0 || self.scale == Scale::Linear)
    }

    /// The values that are marked on the vertical axis, at least two.
    fn marks(&self, values: impl Iterator<Item = f64>) -> Vec<f64> {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        match self.scale {
            // Without points the scale still has one decade.
            Scale::Logarithmic if !low.is_finite() => vec![1.0, 10.0],
            Scale::Logarithmic => {
                let low = low.log10().floor();
                let high = high.log10().ceil().max(low + 1.0);
                (low as i32..=high as i32).map(|power| 10f64.powi(power)).collect()
            }
            Scale::Linear => {
                let (low, high) = if low.is_finite() { (low.min(0.0), high) } else { (0.0, 1.0) };
                let step = round_step((high - low).max(f64::MIN_POSITIVE) / 5.0);
                let (first, last) = ((low / step).floor() as i64, ((high / step).ceil() as i64));
                let last = last.max(first + 1);
                (first..=last).map(|number| tidy(number as f64 * step)).collect()
            }
        }
    }
}

/// The values that are marked on the horizontal axis: those of the points, or round ones if these are many.
fn ticks(mut values: Vec<f64>, furthest: f64) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values.dedup();
    if values.len() <= 2 * TICKS {
        return values;
    }
    let step = round_step(furthest / TICKS as f64);
    (0..).map(|number| tidy(f64::from(number) * step)).take_while(|x| *x <= furthest).collect()
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * decade)
        .into_iter()
        .find(|step| *step >= least * 0.999)
        .unwrap_or(decade)
}

/// Without the digits that binary fractions add.
fn tidy(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

/// As text of XML or HTML.
pub(super) fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> String {
        let line = PlotLine { name: "a < b".to_owned(), is_dashed: true, points };
        scaled(Scale::Logarithmic, vec![line])
    }

    fn scaled(scale: Scale, lines: Vec<PlotLine>) -> String {
        Plot { title: "t".to_owned(), across: "x".to_owned(), upwards: "y".to_owned(), scale, lines }.to_svg()
    }

    #[test]
    fn a_linear_scale_begins_at_zero_and_ends_at_a_round_value() {
        let line = |points: Vec<(f64, f64)>| PlotLine { name: "a".to_owned(), is_dashed: false, points };
        let svg = scaled(Scale::Linear, vec![line(vec![(0.0, 0.0), (50.0, 2.5), (100.0, 4.9)])]);
        assert!(svg.contains("points=\"70.0,400.0 335.0,225.0 600.0,57.0\""), "{svg}");
        assert!(svg.contains(">5</text>") && svg.contains(">0</text>") && svg.matches("<circle").count() == 3, "{svg}");
        for values in [vec![], vec![0.0], vec![-3.0, 7.0], vec![f64::NAN, 1e-12]] {
            let points = values.into_iter().enumerate().map(|(at, y)| (at as f64, y)).collect();
            let svg = scaled(Scale::Linear, vec![line(points)]);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn lines_that_coincide_are_both_seen_and_many_points_have_no_circles() {
        let line = |name: &str, count: u32| PlotLine {
            name: name.to_owned(),
            is_dashed: false,
            points: (0..count).map(|at| (f64::from(at), 1.0)).collect(),
        };
        let svg = scaled(Scale::Linear, vec![line("below", 3), line("above", 3)]);
        assert!(svg.contains("stroke-width=\"3.5\"") && svg.contains("stroke-width=\"2\""), "{svg}");
        let svg = scaled(Scale::Linear, vec![line("long", 1000)]);
        assert!(!svg.contains("<circle") && svg.matches("<text").count() < 20, "{svg}");
    }

    #[test]
    fn all_decades_have_the_same_height() {
        let svg = plot(vec![(0.0, 1.0), (50.0, 10.0), (100.0, 100.0)]);
        assert!(svg.contains("points=\"70.0,400.0 335.0,225.0 600.0,50.0\""), "{svg}");
        assert!(svg.contains(">a &lt; b</text>") && svg.contains("stroke-dasharray"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn points_that_are_not_positive_are_left_out() {
        for points in [vec![], vec![(1.0, 0.0)], vec![(1.0, -3.0)]] {
            let svg = plot(points);
            assert!(svg.contains("points=\"\"") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(!plot(vec![(0.0, 5.0)]).contains("NaN"));
    }
}
