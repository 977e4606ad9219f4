//! Files with holes: the old GNU format and the three PAX ones.
//!
//! See the GNU tar manual, "Storing Sparse Files".

use super::entry::{BLOCK, Segment};
use super::error::ArchiveError;
use super::header::Block;
use super::number;
use super::pax::{SparseKeys, parse_decimal};

/// The most stretches of data one file may have.
const MAX_SEGMENTS: usize = 1 << 17;

/// Where a sparse file's data belongs.
pub(super) struct Map {
    pub(super) segments: Vec<Segment>,
    pub(super) real_size: u64,
    pub(super) name: Option<Vec<u8>>,
}

fn malformed(problem: &str) -> ArchiveError {
    ArchiveError::Malformed {
        offset: 0,
        problem: format!("sparse map: {problem}"),
    }
}

/// Reads the map in an old GNU header (type `S`) and the blocks that continue it.
pub(super) fn read_gnu(
    header: &Block,
    mut next_block: impl FnMut() -> Result<Block, ArchiveError>,
) -> Result<Map, ArchiveError> {
    let number = |field: &[u8]| {
        let value = number::parse(field).and_then(|n| u64::try_from(n).ok());
        value.ok_or_else(|| malformed("broken number"))
    };
    let mut segments = Vec::new();
    let mut take = |slots: &[u8]| -> Result<(), ArchiveError> {
        for slot in slots.chunks_exact(24) {
            // An empty slot ends the map.
            if slot[0] == 0 {
                break;
            }
            segments.push(Segment {
                offset: number(&slot[..12])?,
                length: number(&slot[12..])?,
            });
        }
        match segments.len() {
            0..=MAX_SEGMENTS => Ok(()),
            _ => Err(malformed("too many segments")),
        }
    };
    take(&header[386..482])?;
    let mut is_extended = header[482] != 0;
    while is_extended {
        let block = next_block()?;
        take(&block[..504])?;
        is_extended = block[504] != 0;
    }
    Ok(Map {
        segments,
        real_size: number(&header[483..495])?,
        name: None,
    })
}

/// Makes the map out of PAX records; format 1.0 keeps it at the beginning of the data.
pub(super) fn read_pax(
    keys: SparseKeys,
    next_block: impl FnMut() -> Result<Block, ArchiveError>,
) -> Result<Option<Map>, ArchiveError> {
    let segments = match (keys.major, keys.minor) {
        (Some(1), Some(0)) => read_inline(next_block)?,
        (None, None) | (Some(0), Some(0 | 1)) => match keys.map {
            Some(map) => parse_list(&map)?,
            None if keys.segments.is_empty() && keys.real_size.is_none() => return Ok(None),
            None => keys.segments,
        },
        _ => return Err(malformed("unknown version")),
    };
    let real_size = keys.real_size.ok_or_else(|| malformed("no size"))?;
    Ok(Some(Map {
        segments,
        real_size,
        name: keys.name,
    }))
}

/// Format 1.0: the count, then offset and length of each segment, one decimal number per line, in whole blocks.
fn read_inline(mut next_block: impl FnMut() -> Result<Block, ArchiveError>) -> Result<Vec<Segment>, ArchiveError> {
    let mut block = next_block()?;
    let mut at = 0;
    let mut next_number = || -> Result<u64, ArchiveError> {
        let mut digits = Vec::new();
        loop {
            if at == BLOCK {
                block = next_block()?;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return parse_decimal(&digits).ok_or_else(|| malformed("broken number")),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(malformed("broken number")),
            }
        }
    };
    let count = next_number()?;
    if count > MAX_SEGMENTS as u64 {
        return Err(malformed("too many segments"));
    }
    (0..count)
        .map(|_| {
            Ok(Segment {
                offset: next_number()?,
                length: next_number()?,
            })
        })
        .collect()
}

/// Format 0.1: `offset,length,offset,length…`.
fn parse_list(text: &[u8]) -> Result<Vec<Segment>, ArchiveError> {
    let numbers: Option<Vec<u64>> = text.split(|b| *b == b',').map(parse_decimal).collect();
    let numbers = numbers
        .filter(|n| n.len().is_multiple_of(2))
        .ok_or_else(|| malformed("broken list"))?;
    if numbers.len() / 2 > MAX_SEGMENTS {
        return Err(malformed("too many segments"));
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Segment {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

/// Checks that segments are in order, inside the file, and exactly what the archive holds.
pub(super) fn check(map: &Map, packed: u64) -> Result<(), &'static str> {
    let mut end = 0;
    let mut total = 0_u64;
    for segment in &map.segments {
        if segment.offset < end {
            return Err("sparse segments overlap");
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .ok_or("sparse segment out of range")?;
        total += segment.length; // cannot overflow: segments do not overlap
    }
    match () {
        () if end > map.real_size || map.real_size > i64::MAX as u64 => Err("sparse segment past the end of its file"),
        () if total != packed => Err("sparse segments do not add up to the entry's size"),
        () => Ok(()),
    }
}
