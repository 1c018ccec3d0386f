//! Comments in prompts.

/// Replaces comments from `#` to the end of their line by a line break, as WebUI does since 1.8.
pub fn strip_comments(prompt: &str) -> String {
    let without_lines = replace(prompt, true);
    replace(&without_lines, false)
}

/// Replaces comments with the line breaks around them: those that are whole lines, or all.
fn replace(text: &str, whole_lines: bool) -> String {
    let mut result = String::new();
    let mut rest = text;
    let mut is_line_start = true;
    while let Some(at) = next(rest, whole_lines, is_line_start) {
        let (before, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
        result.push_str(before);
        result.push('\n');
        // The line break before a whole line belongs to the comment, and so does the one after it.
        let comment = after.strip_prefix('\n').unwrap_or(after);
        rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        // The next comment must begin with a line break of its own.
        is_line_start = false;
    }
    result.push_str(rest);
    result
}

/// Finds the next comment: a `#`, or the line break before it if only whole lines count.
fn next(text: &str, whole_lines: bool, is_line_start: bool) -> Option<usize> {
    match whole_lines {
        false => text.find('#'),
        true if is_line_start && text.starts_with('#') => Some(0),
        true => text.find("\n#"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_comments_by_line_breaks() {
        for (prompt, expected) in [
            ("a cat", "a cat"),
            ("# note\na cat", "\na cat"),
            ("a\n# note\nb", "a\nb"),
            ("a # note\nb", "a \nb"),
            ("a # note", "a \n"),
            ("a\n#b\n#c\nd", "a\n\nd"),
            ("#", "\n"),
            ("a\n#", "a\n"),
            ("##a\n\n#b", "\n\n"),
        ] {
            assert_eq!(strip_comments(prompt), expected, "{prompt:?}");
        }
    }
}
