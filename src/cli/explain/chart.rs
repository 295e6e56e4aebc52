//! A chart of profiles: the chance that a block of the stream is lost, over the loss of single datagrams. Both scales are
//! logarithmic. The lab draws its own plots; this program has none of the lab.

use std::fmt::Write;

use super::explained::{Explained, Question};
use crate::config::Profile;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 460.0;
/// The place of the scales and of the names.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// The scales, as powers of ten. What is less likely is drawn at the lower edge.
const ACROSS: (f64, f64) = (-4.0, -1.0);
const UPWARDS: (f64, f64) = (-20.0, 0.0);
/// Points of a line.
const POINTS: u32 = 24;
/// Colours that people with a colour vision deficiency can tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// The text of the SVG file.
pub fn svg(profiles: &[&Profile], question: &Question) -> String {
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = draw(&mut svg, profiles, question);
    svg
}

fn draw(svg: &mut String, profiles: &[&Profile], question: &Question) -> std::fmt::Result {
    let across = |power: f64| LEFT + (power - ACROSS.0) / (ACROSS.1 - ACROSS.0) * (WIDTH - LEFT - RIGHT);
    let upwards = |power: f64| TOP + (UPWARDS.1 - power) / (UPWARDS.1 - UPWARDS.0) * (HEIGHT - TOP - BOTTOM);
    let (low, high) = (upwards(UPWARDS.0), upwards(UPWARDS.1));
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    )?;
    writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"25\">The chance that a block of a stream of {} is lost to single losses</text>",
        question.rate
    )?;
    for power in (UPWARDS.0 as i32..=UPWARDS.1 as i32).step_by(4) {
        let y = upwards(power.into());
        let (begin, end) = (across(ACROSS.0), across(ACROSS.1));
        writeln!(svg, "<line x1=\"{begin:.1}\" x2=\"{end:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>")?;
        writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">1e{power}</text>", begin - 8.0, y + 4.0)?;
    }
    for (power, loss) in [(-4.0, "0.01 %"), (-3.0, "0.1 %"), (-2.0, "1 %"), (-1.0, "10 %")] {
        let x = across(power);
        writeln!(svg, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\" stroke=\"#ddd\"/>")?;
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{loss}</text>", low + 20.0)?;
    }
    let middle = across(f64::midpoint(ACROSS.0, ACROSS.1));
    writeln!(
        svg,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">loss of datagrams</text>",
        HEIGHT - 15.0
    )?;
    for (number, profile) in profiles.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = (0..=POINTS).map(|point| {
            let power = ACROSS.0 + f64::from(point) / f64::from(POINTS) * (ACROSS.1 - ACROSS.0);
            let at = Question { loss: Some(10_f64.powf(power)), measured: None, ..*question };
            let chance = Explained::new(profile, &at).stream.lost_with.log10().clamp(UPWARDS.0, UPWARDS.1);
            format!("{:.1},{:.1}", across(power), upwards(chance))
        });
        let points = points.collect::<Vec<_>>().join(" ");
        writeln!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{points}\"/>")?;
        let (x, y) = (WIDTH - RIGHT + 20.0, TOP + 20.0 * (number + 1) as f64);
        // Names of profiles have no character that means something in XML.
        writeln!(svg, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>", profile.name)?;
    }
    writeln!(svg, "</svg>")
}
