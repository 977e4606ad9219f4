//! Files behind URLs that somebody has to have signed.

use cairn_solver::llb::HttpSignature;

use super::{Fetched, HttpError, HttpSources, blocking};
use crate::signature;

impl HttpSources {
    /// Passes on what one of the keys has signed.
    pub(super) async fn check_signature(
        &self,
        signature: &HttpSignature,
        fetched: Fetched,
    ) -> Result<Fetched, HttpError> {
        let (layers, signature) = (self.layers.clone(), signature.clone());
        blocking(move || {
            let (mut file, _) = fetched.open(&layers)?;
            match signature::verify_file(&signature.keys, &signature.signature, &mut file) {
                Ok(()) => Ok(fetched),
                Err(source) => Err(HttpError::Signature {
                    name: fetched.filename.clone(),
                    source,
                }),
            }
        })
        .await
    }
}
