//! Permission changes: octal, or symbolic as in `chmod`.
//!
//! The symbolic grammar is BSD's with a umask of 0: clauses separated by `,`; each some of `ugoa` (none means all),
//! then one or more of `+ - =` followed by permissions `rwxXst` or by one of `u g o` to copy from.

/// A permission change that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid syntax")]
pub struct ModeSyntax;

/// A change of permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// To exactly these bits.
    Octal(u32),
    /// Step by step.
    Symbolic(Vec<Step>),
}

/// One operation on permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    op: Op,
    /// Bits that may change.
    who: u32,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// These bits, and execution if `X` applies.
    Bits { bits: u32, search: bool },
    /// The bits that user (6), group (3) or others (0) have, by their shift.
    Copy(u32),
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHERS: u32 = 0o007;
const ALL: u32 = USER | GROUP | OTHERS;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;

impl ModeChange {
    /// Reads octal digits or a symbolic change.
    pub fn parse(text: &str) -> Result<Self, ModeSyntax> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| ModeSyntax)?;
            return if bits <= 0o7777 {
                Ok(Self::Octal(bits))
            } else {
                Err(ModeSyntax)
            };
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut steps)?;
        }
        Ok(Self::Symbolic(steps))
    }

    /// The bits that `mode` becomes.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(steps) => steps.iter().fold(mode, |now, step| step.apply(now, mode, is_dir)),
        }
    }
}

impl Step {
    fn apply(self, now: u32, before: u32, is_dir: bool) -> u32 {
        let bits = match self.what {
            What::Bits { bits, search } => {
                // Taking away, `X` is the same as `x`.
                let applies = is_dir || before & EXECUTE != 0 || self.op == Op::Remove;
                bits | if search && applies { EXECUTE } else { 0 }
            }
            What::Copy(shift) => (now >> shift & 0o7) * 0o111,
        };
        let bits = bits & self.who;
        match self.op {
            Op::Add => now | bits,
            Op::Remove => now & !bits,
            // Setting clears set-id bits too, unless it copies, but the sticky bit only if it is named.
            Op::Set => match self.what {
                What::Bits { .. } => now & !(self.who & ALL) | bits,
                What::Copy(_) => now & !(self.who & 0o777) | bits,
            },
        }
    }
}

fn parse_clause(clause: &str, steps: &mut Vec<Step>) -> Result<(), ModeSyntax> {
    let ops = clause.find(['+', '-', '=']).ok_or(ModeSyntax)?;
    let (who, mut rest) = clause.split_at(ops);
    let named = who.chars().try_fold(0, |bits, c| {
        Ok(bits
            | match c {
                'u' => USER,
                'g' => GROUP,
                'o' => OTHERS,
                'a' => ALL,
                _ => return Err(ModeSyntax),
            })
    })?;
    let who = if named == 0 { ALL } else { named };
    while let Some(op) = rest.chars().next() {
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        steps.push(parse_step(op, who, &rest[1..end])?);
        rest = &rest[end..];
    }
    Ok(())
}

fn parse_step(op: char, who: u32, what: &str) -> Result<Step, ModeSyntax> {
    let op = match op {
        '+' => Op::Add,
        '-' => Op::Remove,
        _ => Op::Set,
    };
    let copied = match what {
        "u" => Some(6),
        "g" => Some(3),
        "o" => Some(0),
        _ => None,
    };
    if let Some(shift) = copied {
        // Only permissions are copied, and only to where permissions are.
        return Ok(Step {
            op,
            who: who & (0o777 | if op == Op::Set { ALL } else { 0 }),
            what: What::Copy(shift),
        });
    }
    let (mut bits, mut search, mut sticky) = (0, false, 0);
    for c in what.chars() {
        match c {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= EXECUTE,
            'X' => search = true,
            's' => bits |= 0o6000,
            // Means nothing for others alone.
            't' if who & !OTHERS != 0 => {
                bits |= STICKY;
                sticky = STICKY;
            }
            't' => {}
            _ => return Err(ModeSyntax),
        }
    }
    Ok(Step {
        op,
        who: who | sticky,
        what: What::Bits { bits, search },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_apply_as_chmod_does() {
        // change, mode before, directory?, mode after
        let rows = [
            ("644", 0o777, false, 0o644),
            ("0", 0o777, false, 0),
            ("4755", 0, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("-w+x", 0o644, false, 0o555),
            ("u+rwX,go-w", 0o066, false, 0o644),
            ("u+rwX,go-w", 0o166, false, 0o744),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o744, false, 0o755),
            ("a+X", 0o644, true, 0o755),
            ("a-X", 0o755, false, 0o644),
            ("u=rw,go=r", 0o7777, false, 0o1644),
            ("g=u", 0o740, false, 0o770),
            ("o=g", 0o750, false, 0o755),
            ("go=", 0o777, false, 0o700),
            ("u+s", 0o755, false, 0o4755),
            ("o+s", 0o755, false, 0o755),
            ("+s", 0o755, false, 0o6755),
            ("+t", 0o755, true, 0o1755),
            ("o+t", 0o755, true, 0o755),
            ("a=rx", 0o1777, true, 0o1555),
            ("=rwx", 0, false, 0o777),
            ("u=g", 0o2750, false, 0o2550),
            ("g=u", 0o2755, true, 0o2775),
            ("ugo=u", 0o7700, true, 0o7777),
        ];
        for (change, before, is_dir, after) in rows {
            let parsed = ModeChange::parse(change).unwrap();
            let got = parsed.apply(before, is_dir);
            assert_eq!(got, after, "{change} on {before:o} gives {got:o}, not {after:o}");
        }
    }

    #[test]
    fn malformed_changes_are_refused() {
        for text in ["", "u", "rwx", "u+q", "9", "77777", "u+x,", "z+x", "8", "u+ü", "ü+x"] {
            assert_eq!(ModeChange::parse(text), Err(ModeSyntax), "{text}");
        }
    }
}
