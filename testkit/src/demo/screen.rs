//! Lines for a terminal or a file. On a terminal the last line may be a passing one that the next
//! line takes the place of.

use std::io::{self, IsTerminal as _, Write as _};

pub(super) struct Screen {
    terminal: bool,
    passing: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            passing: false,
        }
    }

    /// A line, or several, that stay.
    pub(super) fn line(&mut self, text: &str) {
        self.clear();
        self.put(&format!("{text}\n"));
    }

    /// A heading, with an empty line before it.
    pub(super) fn heading(&mut self, text: &str) {
        let text = if self.terminal {
            format!("\n\x1b[1m{text}\x1b[0m")
        } else {
            format!("\n{text}")
        };
        self.line(&text);
    }

    /// What a program printed, indented.
    pub(super) fn quote(&mut self, text: &str) {
        for line in text.lines() {
            self.line(&format!("  {line}"));
        }
    }

    /// A line that the next one replaces; nothing where there is no terminal.
    pub(super) fn pass(&mut self, text: &str) {
        if self.terminal {
            self.clear();
            self.put(text);
            self.passing = true;
        }
    }

    /// Takes the passing line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.passing) {
            self.put("\r\x1b[2K");
        }
    }

    fn put(&self, text: &str) {
        let mut output = io::stdout().lock();
        // Whoever closed the output does not want to see it; the demo ends all the same.
        let _ = output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush());
    }
}
