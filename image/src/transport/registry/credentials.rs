//! Credentials.
/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct CredentialOptions {}
impl CredentialOptions {
    /// From the environment.
    pub fn from_env() -> Self {
        Self {}
    }
}
/// Why credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {}
