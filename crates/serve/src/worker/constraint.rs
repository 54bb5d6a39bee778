//! When an answer is held to a form, and when it is free.

use outpour_text::Grammar;

/// A form, and where in the answer it counts.
#[derive(Clone, Debug)]
pub(crate) struct Constraint {
    /// As it begins.
    form: Grammar,
    /// As far as it has come, while it counts.
    active: Option<Grammar>,
    begins: Begins,
}

/// What a form begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// The answer.
    Answer,
    /// What follows this token, which ends the thoughts.
    After(u32),
    /// This token, whenever it comes: each call of a tool.
    Each(u32),
    /// This token, when it comes first; behind the form is the end of the answer.
    First(u32),
}

impl Constraint {
    pub(crate) fn new(form: Grammar, begins: Begins) -> Constraint {
        let active = (begins == Begins::Answer).then(|| form.clone());
        Constraint { form, active, begins }
    }

    /// Takes the probability from what cannot come next. Returns whether anything is held to a form now.
    pub(super) fn mask(&mut self, logits: &[f32], masked: &mut Vec<f32>) -> Result<bool, String> {
        let Some(active) = &mut self.active else { return Ok(false) };
        masked.clear();
        masked.extend_from_slice(logits);
        active.mask(masked)?;
        Ok(true)
    }

    /// Notes the token that was chosen.
    pub(super) fn note(&mut self, token: u32) -> Result<(), String> {
        match (&mut self.active, self.begins) {
            (Some(active), begins) => {
                active.accept(token)?;
                if matches!(begins, Begins::Each(_)) && active.is_complete()? {
                    self.active = None;
                }
            }
            (None, Begins::After(close)) if token == close => self.active = Some(self.form.clone()),
            (None, Begins::Each(open) | Begins::First(open)) if token == open => {
                let mut form = self.form.clone();
                form.accept(token)?;
                self.active = Some(form);
            }
            (None, _) => {}
        }
        Ok(())
    }
}
