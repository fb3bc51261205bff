//! A terminal that nobody looks at: what a program shows a person, as text, and what a person
//! types.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use rustix::{
    fs::{self, Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

/// Its lines.
pub const LINES: u16 = 50;

/// What a program came to on a terminal.
#[derive(Debug)]
pub struct Shown {
    /// How it ended.
    pub status: ExitStatus,
    /// What it showed, standard error with it, with line breaks as in a file.
    pub text: String,
}

/// A terminal with a program on it.
#[derive(Debug)]
pub struct Terminal {
    ours: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    /// Runs a program on a terminal of so many columns, which is its own to read from and to be
    /// interrupted at, as by the program `setsid` of util-linux.
    ///
    /// # Errors
    ///
    /// If there is no terminal to be had, or the program does not start.
    pub fn open(command: &Command, columns: u16) -> io::Result<Self> {
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]);
        session.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        Self::start(session, columns, Stdio::from)
    }

    fn start(
        mut command: Command,
        columns: u16,
        input: impl FnOnce(File) -> Stdio,
    ) -> io::Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        // It shall not become this process' own terminal.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = fs::open(ptsname(&ours, Vec::new())?, flags, Mode::empty())?;
        let theirs = File::from(theirs);
        let size = Winsize {
            ws_row: LINES,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&theirs, size)?;
        let child = command
            .stdin(input(theirs.try_clone()?))
            .stdout(theirs.try_clone()?)
            .stderr(theirs)
            .spawn()?;
        // It holds the other side, too.
        drop(command);
        let ours = File::from(ours);
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let reader = {
            let (mut terminal, shown) = (ours.try_clone()?, shown.clone());
            thread::spawn(move || {
                let mut some = [0; 4096];
                // Where the last program has closed it, reading fails instead of coming to an end.
                while let Ok(count @ 1..) = terminal.read(&mut some) {
                    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    shown.extend_from_slice(&some[..count]);
                }
            })
        };
        Ok(Self {
            ours,
            child,
            shown,
            reader,
        })
    }

    /// What it has shown so far, with line breaks as in a file.
    pub fn text(&self) -> String {
        text(&self.shown)
    }

    /// Types; `"\r"` is the key that ends a line, `"\x03"` the one that interrupts.
    ///
    /// # Errors
    ///
    /// If the terminal is gone.
    pub fn types(&mut self, keys: &str) -> io::Result<()> {
        self.ours.write_all(keys.as_bytes())
    }

    /// Ends the program, as `timeout` does.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn terminate(&self) -> io::Result<()> {
        // `setsid` has become the program: whoever leads no group need not fork.
        let program = Pid::from_child(&self.child);
        Ok(kill_process(program, Signal::TERM)?)
    }

    /// Whether it shows what is typed.
    ///
    /// # Errors
    ///
    /// If the terminal is gone.
    pub fn echoes(&self) -> io::Result<bool> {
        let modes = tcgetattr(&self.ours)?.local_modes;
        Ok(modes.contains(LocalModes::ECHO))
    }

    /// Waits until the program has ended.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub fn ended(mut self) -> io::Result<Shown> {
        let status = self.child.wait()?;
        self.reader
            .join()
            .map_err(|_| io::Error::other("the terminal could not be read"))?;
        let text = text(&self.shown);
        Ok(Shown { status, text })
    }
}

fn text(shown: &Mutex<Vec<u8>>) -> String {
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&shown).replace("\r\n", "\n")
}

/// Runs a program on a terminal of so many columns, with nothing to read.
pub fn run(command: Command, columns: u16) -> io::Result<Shown> {
    Terminal::start(command, columns, |_| Stdio::null())?.ended()
}
