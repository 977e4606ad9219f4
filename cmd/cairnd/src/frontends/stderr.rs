//! What a frontend writes to its standard error.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes that the daemon's log takes from one frontend.
const MAX_LOGGED: usize = 256 << 10;
/// How much of the end is kept for an error message.
const MAX_TAIL: usize = 2 << 10;

/// The end of what was written so far.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
        let surplus = self.0.len().saturating_sub(MAX_TAIL);
        self.0.drain(..surplus);
    }

    /// The text, without anything that a terminal would act on.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let shown = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t'));
        shown.collect::<String>().trim().to_owned()
    }
}

/// Reads everything, writes some of it to the daemon's log, and returns the end.
pub(super) async fn follow(mut from: Box<dyn AsyncRead + Send + Unpin>, image: String) -> Tail {
    let mut tail = Tail::default();
    let mut logged = 0;
    let mut buffer = vec![0; 8 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let data = &buffer[..count];
        if logged < MAX_LOGGED {
            tracing::info!(frontend = image, text = %String::from_utf8_lossy(data).trim_end().escape_debug(), "a frontend says");
            logged += count;
        }
        tail.push(data);
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_kept_as_plain_text() {
        let said = format!("{}\n\x1b[31mlast words\x07\n", "x".repeat(100_000));
        let tail = follow(Box::new(std::io::Cursor::new(said.into_bytes())), "i".to_owned()).await;
        assert!(tail.text().ends_with("x\n[31mlast words"));
        assert!(tail.text().len() <= MAX_TAIL);
    }
}
