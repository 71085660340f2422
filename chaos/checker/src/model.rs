//! What a correct object would do.

use crate::Value;

/// A model, by name and parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Model {
    /// `read`, `write`.
    Register {
        /// Null: unset.
        init: Value,
    },
}
