//! What a rule writes: text in which `$name` and `${name}` stand for what was matched.

/// Appends `template` to `made`, with `group` in place of names; what names nothing is empty, and `$$` is a dollar sign.
/// A dollar sign before anything else stays. False if `made` would get longer than `max` bytes.
pub(super) fn expand<'a>(
    template: &str,
    group: impl Fn(&str) -> Option<&'a str>,
    max: usize,
    made: &mut String,
) -> bool {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        made.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            made.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(after) {
            made.push_str(group(name).unwrap_or_default());
            rest = after;
        } else {
            made.push('$');
            rest = after;
        }
        if made.len() > max {
            return false;
        }
    }
    made.push_str(rest);
    made.len() <= max
}

/// The name at the beginning of what comes after a dollar sign, and what comes after it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (name, after) = match text.strip_prefix('{') {
        Some(inner) => inner.split_once('}')?,
        None => {
            let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
            text.split_at(end)
        }
    };
    (!name.is_empty() && name.chars().all(is_word)).then_some((name, after))
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}
