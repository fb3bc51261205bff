//! A terminal that nobody looks at: what a program shows a person, as text.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    process::{Command, ExitStatus, Stdio},
    thread,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// What a program came to on a terminal.
#[derive(Debug)]
pub struct Shown {
    /// How it ended.
    pub status: ExitStatus,
    /// What it showed, standard error with it, with line breaks as in a file.
    pub text: String,
}

/// Runs a program on a terminal of so many columns, with nothing to read.
pub fn run(mut command: Command, columns: u16) -> io::Result<Shown> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let name = name.into_string().map_err(io::Error::other)?;
    let theirs = OpenOptions::new().read(true).write(true).open(name)?;
    let size = Winsize {
        ws_row: 50,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&theirs, size)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        .spawn()?;
    // It holds the other side, too.
    drop(command);
    let mut terminal = File::from(ours);
    let reader = thread::spawn(move || {
        let mut shown = Vec::new();
        // Where the last program has closed it, reading fails instead of coming to an end.
        let _ = terminal.read_to_end(&mut shown);
        shown
    });
    let status = child.wait()?;
    let shown = reader
        .join()
        .map_err(|_| io::Error::other("the terminal could not be read"))?;
    let text = String::from_utf8_lossy(&shown).replace("\r\n", "\n");
    Ok(Shown { status, text })
}
