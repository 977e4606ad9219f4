//! One picture of a build, as lines.

use std::time::{Duration, SystemTime};

use cairn_client::{Progress, Vertex, VertexState, VertexStatus};

use crate::quantity;
use crate::ui::Theme;
use crate::ui::text::{clean, fit, spread};

/// Lines of output shown below a running vertex.
const LOG_LINES: usize = 6;
/// Parts shown below one vertex.
const PARTS: usize = 12;
/// Parts shown below one vertex when space is short.
const FEW_PARTS: usize = 2;
/// Characters of a digest that are shown.
const DIGEST: usize = 12;
const MIN_ROWS: usize = 4;
const MIN_COLUMNS: usize = 20;

/// The size of the terminal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// What a picture is made of.
pub(super) struct Frame<'a> {
    pub(super) progress: &'a Progress,
    pub(super) now: SystemTime,
    pub(super) elapsed: Duration,
    pub(super) size: Size,
    pub(super) theme: Theme,
}

/// The lines of one vertex.
struct Block {
    running: bool,
    head: String,
    parts: Vec<String>,
    log: Vec<String>,
}

impl Frame<'_> {
    /// The picture while the build runs: as high as the terminal at most.
    pub(super) fn live(&self) -> Vec<String> {
        // One row for the head of the picture, one for the cursor.
        let budget = self.size.rows.max(MIN_ROWS) - 2;
        let vertices = self.reached();
        let running = vertices
            .iter()
            .filter(|vertex| vertex.state() == VertexState::Running)
            .count();
        // Of what has finished, no more can be seen than there are rows.
        let mut hidden = (vertices.len() - running).saturating_sub(budget);
        let mut skip = hidden;
        let mut blocks: Vec<Block> = Vec::new();
        for vertex in vertices {
            if vertex.state() != VertexState::Running && skip > 0 {
                skip -= 1;
            } else {
                blocks.push(self.block(vertex));
            }
        }
        shrink(&mut blocks, budget, &mut hidden);
        let space = budget.saturating_sub(used(&blocks, hidden));
        share_log_space(&mut blocks, space);

        let mut lines = vec![self.head(false)];
        if hidden > 0 {
            lines.push(self.theme.faint(&self.fit(&format!(" => … {hidden} finished steps"))));
        }
        for block in blocks {
            lines.push(block.head);
            lines.extend(block.parts);
            lines.extend(block.log);
        }
        // One row is the cursor's, however few there are.
        lines.truncate((budget + 1).min(self.size.rows.saturating_sub(1)).max(1));
        lines
    }

    /// The picture that stays.
    pub(super) fn last(&self) -> Vec<String> {
        let blocks = self.reached().into_iter().map(|vertex| self.block(vertex));
        let lines = blocks.flat_map(|block| std::iter::once(block.head).chain(block.parts));
        std::iter::once(self.head(true)).chain(lines).collect()
    }

    /// Vertices that have something to show, in the order of their start.
    fn reached(&self) -> Vec<&Vertex> {
        let vertices = self.progress.vertices().iter();
        let mut reached: Vec<&Vertex> = vertices
            .filter(|vertex| vertex.state() != VertexState::Pending)
            .collect();
        reached.sort_by_key(|vertex| vertex.started());
        reached
    }

    fn head(&self, over: bool) -> String {
        let all = self.progress.vertices();
        let open = |state| matches!(state, VertexState::Pending | VertexState::Running);
        // What was never started is not missed at the end.
        let counted = all
            .iter()
            .filter(|vertex| !over || vertex.state() != VertexState::Pending);
        let finished = counted.clone().filter(|vertex| !open(vertex.state())).count();
        let any = |state| all.iter().any(|vertex| vertex.state() == state);
        let (failed, cancelled) = (any(VertexState::Failed), any(VertexState::Cancelled));
        let elapsed = quantity::seconds(self.elapsed);
        let end = match over {
            false => "",
            true if failed => " FAILED",
            true if cancelled => " CANCELED",
            true => " FINISHED",
        };
        let text = format!("[+] Building {elapsed} ({finished}/{}){end}", counted.count());
        let text = self.fit(&text);
        if failed { self.theme.bad(&text) } else { text }
    }

    fn block(&self, vertex: &Vertex) -> Block {
        let running = vertex.state() == VertexState::Running;
        let count = vertex.statuses.len();
        let mut parts: Vec<String> = Vec::new();
        // While it runs, what is under way matters most.
        let mut shown: Vec<&VertexStatus> = vertex.statuses.iter().collect();
        if running {
            shown.sort_by_key(|status| !status.is_done());
            shown.drain(..count.saturating_sub(PARTS));
        } else {
            shown.truncate(PARTS);
        }
        parts.extend(shown.into_iter().map(|status| self.part(status)));
        if count > PARTS && !running {
            parts.push(self.fit(&format!(" => => … {} more", count - PARTS)));
        }
        let log = if running {
            vertex.log.tail(LOG_LINES)
        } else {
            Vec::new()
        };
        let log = log
            .iter()
            .map(|line| self.theme.faint(&self.fit(&format!(" => => # {}", clean(line)))));
        Block {
            running,
            head: self.vertex(vertex),
            parts,
            log: log.collect(),
        }
    }

    fn vertex(&self, vertex: &Vertex) -> String {
        let mark = match vertex.state() {
            VertexState::Cached => "CACHED ",
            VertexState::Failed => "ERROR ",
            VertexState::Cancelled => "CANCELED ",
            VertexState::Pending | VertexState::Running | VertexState::Done => "",
        };
        let left = format!(" => {mark}{}", clean(&vertex.name));
        let line = self.spread(&left, vertex.duration(self.now));
        match vertex.state() {
            VertexState::Failed => self.theme.bad(&line),
            VertexState::Cancelled => self.theme.odd(&line),
            VertexState::Cached | VertexState::Done => self.theme.done(&line),
            VertexState::Pending | VertexState::Running => line,
        }
    }

    fn part(&self, status: &VertexStatus) -> String {
        let id = short_digest(&clean(&status.id));
        let bytes = match (status.current, status.total) {
            (0, 0) => String::new(),
            (current, 0) => format!(" {}", quantity::size(current)),
            (current, total) => format!(" {} / {}", quantity::size(current), quantity::size(total)),
        };
        let line = self.spread(&format!(" => => {id}{bytes}"), status.duration(self.now));
        if status.is_done() { self.theme.done(&line) } else { line }
    }

    fn columns(&self) -> usize {
        self.size.columns.max(MIN_COLUMNS)
    }

    fn fit(&self, text: &str) -> String {
        fit(text, self.columns())
    }

    fn spread(&self, left: &str, duration: Duration) -> String {
        spread(left, &quantity::seconds(duration), self.columns())
    }
}

/// Takes lines away, the least interesting first, until `budget` is enough.
fn shrink(blocks: &mut Vec<Block>, budget: usize, hidden: &mut usize) {
    if used(blocks, *hidden) <= budget {
        return;
    }
    blocks
        .iter_mut()
        .filter(|block| !block.running)
        .for_each(|block| block.parts.clear());
    for parts in [FEW_PARTS, 0] {
        while used(blocks, *hidden) > budget {
            let Some(oldest) = blocks.iter().position(|block| !block.running) else {
                break;
            };
            blocks.remove(oldest);
            *hidden += 1;
        }
        if used(blocks, *hidden) > budget {
            for block in blocks.iter_mut() {
                let surplus = block.parts.len().saturating_sub(parts);
                block.parts.drain(..surplus);
            }
        }
    }
}

fn share_log_space(blocks: &mut [Block], space: usize) {
    let talking = blocks.iter().filter(|block| !block.log.is_empty()).count();
    let each = space.checked_div(talking).unwrap_or(0).min(LOG_LINES);
    for block in blocks {
        let surplus = block.log.len().saturating_sub(each);
        block.log.drain(..surplus);
    }
}

/// Rows taken by blocks without their output, and by the remark that some are hidden.
fn used(blocks: &[Block], hidden: usize) -> usize {
    blocks.iter().map(|block| 1 + block.parts.len()).sum::<usize>() + usize::from(hidden > 0)
}

/// Cuts the digests of layers to what tells them apart.
fn short_digest(text: &str) -> String {
    let Some((before, digest)) = text.split_once("sha256:") else {
        return text.to_owned();
    };
    let hex = digest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digest.len());
    if hex != 64 {
        return text.to_owned();
    }
    format!("{before}sha256:{}{}", &digest[..DIGEST], &digest[hex..])
}

#[cfg(test)]
mod tests;
