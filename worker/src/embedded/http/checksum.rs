//! Hashes of files behind URLs that are not those by which we know them.

use std::io::{self, BufRead as _, BufReader, Read};

use cairn_solver::llb::HttpSource;
use cairn_solver::worker::{CallContext, ChecksumAlgorithm, ChecksumRequest, WorkerError};
use sha2::{Sha256, Sha384, Sha512};

use super::{HttpError, HttpSources, blocking, parse_url};

impl HttpSources {
    /// Hashes the file that a URL stands for, and what is to follow it.
    pub(in crate::embedded) async fn checksum(
        &self,
        source: &HttpSource,
        request: &ChecksumRequest,
        context: &CallContext,
    ) -> Result<String, WorkerError> {
        let hash = async {
            let url = parse_url(&source.url)?;
            let fetched = self.fetch(source, &url, source.checksum, context).await?;
            let (layers, request) = (self.layers.clone(), request.clone());
            blocking(move || {
                let (file, _) = fetched.open(&layers)?;
                digest(file, &request).map_err(|source| fetched.unreadable(source))
            })
            .await
        };
        hash.await
            .map_err(|error: HttpError| WorkerError::Failed(error.describe()))
    }
}

fn digest(contents: impl Read, request: &ChecksumRequest) -> io::Result<String> {
    let digits = match request.algorithm {
        ChecksumAlgorithm::Sha256 => digits::<Sha256>(contents, &request.suffix),
        ChecksumAlgorithm::Sha384 => digits::<Sha384>(contents, &request.suffix),
        ChecksumAlgorithm::Sha512 => digits::<Sha512>(contents, &request.suffix),
    }?;
    Ok(format!("{}:{digits}", request.algorithm.name()))
}

fn digits<H: sha2::Digest>(contents: impl Read, suffix: &[u8]) -> io::Result<String> {
    let mut hasher = H::new();
    let mut contents = BufReader::with_capacity(64 << 10, contents.chain(suffix));
    loop {
        let chunk = contents.fill_buf()?;
        if chunk.is_empty() {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(chunk);
        let length = chunk.len();
        contents.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn contents_and_suffix_are_hashed_together() {
        // Of `abc`, from FIPS 180-4.
        for (algorithm, want) in [
            (
                ChecksumAlgorithm::Sha256,
                "sha256:ba7816bf8f01cfea414140de5dae2223b00361a3",
            ),
            (
                ChecksumAlgorithm::Sha384,
                "sha384:cb00753f45a35e8bb5a03d699ac65007272c32ab",
            ),
            (
                ChecksumAlgorithm::Sha512,
                "sha512:ddaf35a193617abacc417349ae20413112e6fa4e",
            ),
        ] {
            for (contents, suffix) in [("abc", ""), ("a", "bc"), ("", "abc")] {
                let request = ChecksumRequest {
                    algorithm,
                    suffix: Bytes::from_static(suffix.as_bytes()),
                };
                let found = digest(contents.as_bytes(), &request).unwrap();
                assert!(found.starts_with(want), "{found}");
            }
        }
    }
}
