//! Errors in one line, for logs, and for those who get text and no error.

use std::error::Error;
use std::fmt;

/// An error and its causes, outermost first, with colons between.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_follow_one_another() {
        let inner = Layer("c", None);
        let outer = Layer("a", Some(Box::new(Layer("b", Some(Box::new(inner))))));
        assert_eq!(Chain(&outer).to_string(), "a: b: c");
        assert_eq!(Chain(&Layer("alone", None)).to_string(), "alone");
    }
}
