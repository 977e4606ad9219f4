//! Ids made by a client: builds and sessions.

use std::fmt;

/// A fresh 25-character lower-case base36 id, the shape every client and daemon of this API uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

const LENGTH: usize = 25;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Bytes from here on would make some digits more likely than others.
const FAIR_BELOW: u8 = 252;

impl Id {
    /// Draws an id from the system's random numbers.
    ///
    /// # Errors
    /// The system's error when it has no random numbers to give.
    pub fn random() -> std::io::Result<Self> {
        let mut id = String::with_capacity(LENGTH);
        let mut bytes = [0_u8; 2 * LENGTH];
        while id.len() < LENGTH {
            let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
            let fair = bytes[..filled].iter().filter(|byte| **byte < FAIR_BELOW);
            let digits = fair.map(|byte| char::from(DIGITS[usize::from(byte % 36)]));
            id.extend(digits.take(LENGTH - id.len()));
        }
        Ok(Self(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_common_shape_and_differs() {
        let (one, two) = (Id::random().unwrap(), Id::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 25);
        assert!(one.as_str().bytes().all(|b| DIGITS.contains(&b)));
    }
}
