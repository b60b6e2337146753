//! The one way in which input is refused: the field, what is wrong with it, what to do.

/// A field of a request, template or policy that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field as the caller wrote it, e.g. `overrides.memory`.
    pub field: String,
    /// What is wrong and what would be accepted.
    pub problem: String,
}

impl Invalid {
    /// Names `field` and says what is wrong with it.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}
