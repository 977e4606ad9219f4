//! Colours, or none.

use console::Style;

use crate::surroundings::Surroundings;

/// How texts are set apart.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Theme {
    colour: bool,
}

impl Theme {
    /// Colours if standard error is a terminal that has them and nobody objects.
    pub(crate) fn of(surroundings: &Surroundings) -> Self {
        let wanted = surroundings.variable("NO_COLOR").is_none() && surroundings.variable("TERM") != Some("dumb");
        Self {
            colour: surroundings.stderr_is_terminal && wanted,
        }
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self::default()
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.colour {
            style.force_styling(true).apply_to(text).to_string()
        } else {
            text.to_owned()
        }
    }

    /// Something that went wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(Style::new().red(), text)
    }

    /// The word that introduces an error.
    pub(crate) fn alarm(self, text: &str) -> String {
        self.paint(Style::new().red().bold(), text)
    }

    /// Something to be aware of.
    pub(crate) fn odd(self, text: &str) -> String {
        self.paint(Style::new().yellow(), text)
    }

    /// Something that is finished.
    pub(crate) fn done(self, text: &str) -> String {
        self.paint(Style::new().cyan(), text)
    }

    /// Something that matters less.
    pub(crate) fn faint(self, text: &str) -> String {
        self.paint(Style::new().dim(), text)
    }

    /// Something that matters more.
    pub(crate) fn strong(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }
}
