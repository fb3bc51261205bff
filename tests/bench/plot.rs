//! Cost against the number of resources, both in logarithms: a straight line at this slope is linear
//! growth.

use std::fmt::Write as _;

use crate::report::{Sync, megabytes, thousands};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 60.0;

/// One curve of a panel.
struct Curve {
    name: &'static str,
    colour: &'static str,
    values: Vec<f64>,
    label: fn(f64) -> String,
}

/// Time beside the floor, and memory.
pub(crate) fn svg(syncs: &[Sync]) -> String {
    let sizes: Vec<_> = syncs.iter().map(|sync| sync.resources).collect();
    let values = |of: fn(&Sync) -> f64| syncs.iter().map(of).collect();
    let seconds: fn(f64) -> String = |value| format!("{value:.1} s");
    let bytes: fn(f64) -> String = |value| megabytes(value as u64);
    let time = [
        Curve {
            name: "operator",
            colour: "#0969da",
            values: values(|sync| sync.seconds),
            label: seconds,
        },
        Curve {
            name: "floor",
            colour: "#6e7781",
            values: values(|sync| sync.floor_seconds),
            label: |_| String::new(),
        },
    ];
    let memory = [Curve {
        name: "operator, peak",
        colour: "#bf3989",
        values: values(|sync| sync.peak_bytes as f64),
        label: bytes,
    }];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n"
    );
    panel(&mut svg, 0.0, "Time of a first sync", &sizes, &time);
    panel(&mut svg, WIDTH / 2.0, "Memory", &sizes, &memory);
    svg + "</svg>\n"
}

fn panel(svg: &mut String, left: f64, title: &str, sizes: &[usize], curves: &[Curve]) {
    let width = WIDTH / 2.0;
    let all = || curves.iter().flat_map(|curve| &curve.values).copied();
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
    let (first, last) = (sizes[0] as f64, sizes[sizes.len() - 1] as f64);
    let share = |value: f64, least: f64, most: f64| (value / least).ln() / (most / least).ln();
    let x = |size: f64| left + MARGIN + share(size, first, last) * (width - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - share(value, least, most) * (HEIGHT - 2.0 * MARGIN);
    let (bottom, right) = (HEIGHT - MARGIN, left + width - MARGIN);
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"24\" font-weight=\"bold\">{title}</text>\n<path d=\"M{:.0} {MARGIN:.0} \
         V{bottom:.0} H{right:.0}\" fill=\"none\" stroke=\"#d0d7de\"/>",
        left + MARGIN,
        left + MARGIN,
    );
    for size in sizes {
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            x(*size as f64),
            bottom + 20.0,
            thousands(*size)
        );
    }
    for (number, curve) in curves.iter().enumerate() {
        let Curve { name, colour, .. } = curve;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"{colour}\">{name}</text>",
            left + MARGIN + 8.0,
            MARGIN + 4.0 + 16.0 * number as f64
        );
        let points = sizes.iter().zip(&curve.values);
        let points = points.map(|(size, value)| format!("{:.1},{:.1}", x(*size as f64), y(*value)));
        let points: Vec<_> = points.collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for (size, value) in sizes.iter().zip(&curve.values) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"{colour}\">{}</text>",
                x(*size as f64),
                y(*value) - 8.0,
                (curve.label)(*value)
            );
        }
    }
}
