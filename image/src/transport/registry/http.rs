//! HTTP.
/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {}
impl HttpError {
    /// Whether access was refused.
    pub fn is_denied(&self) -> bool {
        false
    }
}
