//! `conclave-chaos points`.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use conclave_faults::{POINTS, Then};

/// Prints the fail points.
pub fn list() -> ExitCode {
    let then = |then: Then| match then {
        Then::Stops => "stops",
        Then::GoesOn => "goes on",
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["POINT", "WHAT HAPPENS THERE", "AFTER AN ERROR", "AFTER A PANIC"]);
    for point in POINTS {
        table.add_row([point.name, point.about, point.error.map_or("-", then), then(point.panic)]);
    }
    println!("{table}");
    println!(
        "{} points. In conclaved-faulty each is armed with FAILPOINTS='NAME=ACTION;…', or while it runs with\n\
         POST /faults on its HTTP port: panic, return(EIO), sleep(MS), pause, off, or as often as wanted: 3*sleep(100).",
        POINTS.len()
    );
    ExitCode::SUCCESS
}
