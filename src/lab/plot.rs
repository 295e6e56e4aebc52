//! A line plot as SVG, with a legend and a logarithmic vertical scale; needs no other program.
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

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The title above it.
    pub title: String,
    /// The label below the horizontal axis.
    pub across: String,
    /// The label of the vertical axis.
    pub upwards: String,
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
    /// Its points, from left to right; points that are not above zero are left out because the scale is logarithmic.
    pub points: Vec<(f64, f64)>,
}

impl Plot {
    /// The plot as the text of an SVG file.
    pub fn to_svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied()).filter(|(_, y)| *y > 0.0);
        let furthest = points().map(|(x, _)| x).fold(1e-9, f64::max);
        let low = points().map(|(_, y)| y).fold(f64::INFINITY, f64::min).log10().floor();
        let high = points().map(|(_, y)| y).fold(0.0, f64::max).log10().ceil();
        // Without points the scale still has one decade.
        let (low, high) = if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) };
        let across = |x: f64| LEFT + x / furthest * (WIDTH - LEFT - RIGHT);
        let upwards = |y: f64| TOP + (high - y.log10()) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let mut text = |x: f64, y: f64, anchor: &str, more: &str, words: &str| {
            let words = words.replace('&', "&amp;").replace('<', "&lt;");
            // Writing to a String cannot fail.
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{words}</text>");
        };
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        text(middle, 25.0, "middle", " font-size=\"16\"", &self.title);
        text(middle, HEIGHT - 15.0, "middle", "", &self.across);
        text(18.0, HEIGHT / 2.0, "middle", &format!(" transform=\"rotate(-90 18 {})\"", HEIGHT / 2.0), &self.upwards);
        let mut ticks: Vec<f64> = points().map(|(x, _)| x).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        ticks.iter().for_each(|x| text(across(*x), HEIGHT - BOTTOM + 20.0, "middle", "", &format!("{x}")));
        let decades: Vec<f64> = (low as i32..=high as i32).map(|power| 10f64.powi(power)).collect();
        decades.iter().for_each(|y| text(LEFT - 8.0, upwards(*y) + 4.0, "end", "", &format!("{y}")));
        for y in decades {
            let (y, end) = (upwards(y), WIDTH - RIGHT);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"#ccc\"/>");
        }
        for ((number, line), colour) in self.lines.iter().enumerate().zip(COLOURS.iter().cycle()) {
            let drawn: Vec<_> = line.points.iter().filter(|(_, y)| *y > 0.0).collect();
            let path: Vec<_> = drawn.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), upwards(*y))).collect();
            let dash = if line.is_dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let (begin, end) = (WIDTH - RIGHT + 15.0, WIDTH - RIGHT + 45.0);
            let y = TOP + 20.0 * number as f64;
            let stroke = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}");
            let name = line.name.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" {stroke}/>\n<path d=\"M{begin} {y}H{end}\" {stroke}/>\n<text x=\"{:.1}\" \
                 y=\"{:.1}\">{name}</text>",
                path.join(" "),
                end + 6.0,
                y + 4.0,
            );
        }
        svg + "</svg>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> String {
        let line = PlotLine { name: "a < b".to_owned(), is_dashed: true, points };
        Plot { title: "t".to_owned(), across: "x".to_owned(), upwards: "y".to_owned(), lines: vec![line] }.to_svg()
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
