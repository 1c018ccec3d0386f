//! Detects mojibake with ftfy's heuristic: characters that rarely occur next to each other.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::prompt::{is_space, is_word};

/// The classes of a character, as bits.
type Classes = u32;

/// Characters of all kinds of text.
const COMMON: Classes = 1;
/// The control characters 0x80 to 0x9f.
const C1: Classes = 1 << 1;
/// Characters that rarely occur outside of mojibake.
const BAD: Classes = 1 << 2;
const LAW: Classes = 1 << 3;
const CURRENCY: Classes = 1 << 4;
const OPENING: Classes = 1 << 5;
const CLOSING: Classes = 1 << 6;
const NUMERIC: Classes = 1 << 7;
/// Characters of kaomoji like `(ó_ò)`, which may occur next to any other character.
const FACE: Classes = 1 << 8;
/// Accented Latin letters, and a few characters of similar use.
const UPPER: Classes = 1 << 9;
const LOWER: Classes = 1 << 10;
/// Greek and Cyrillic letters.
const UPPER_OTHER: Classes = 1 << 11;
const LOWER_OTHER: Classes = 1 << 12;
const BOX: Classes = 1 << 13;
/// `LATIN` is A to Z and a to z, `NOT_LATIN` all other characters, and `LATIN_LOWER` a to z.
const LATIN: Classes = 1 << 14;
const NOT_LATIN: Classes = 1 << 15;
const LATIN_LOWER: Classes = 1 << 16;
const WHITE: Classes = 1 << 17;
/// Letters, digits and other numbers, and the underscore.
const WORD: Classes = 1 << 18;
const NOT_NEWLINE: Classes = 1 << 19;

type Range = (char, char);

/// The characters of each class, as singles and as ranges.
const MEMBERS: [(Classes, &str, &[Range]); 14] = [
    (COMMON, "\u{a0}\u{ad}´·’…", &[('–', '―')]),
    (C1, "", &[('\u{80}', '\u{9f}')]),
    (BAD, "¤¦¨ª¬¯¸ºƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}", &[]),
    (LAW, "§¶", &[]),
    (CURRENCY, "¢£¥₧€", &[]),
    (OPENING, "¡©«¿\u{384}\u{385}‘‚“„•‹\u{f8ff}", &[]),
    (CLOSING, "®»˝”›™", &[]),
    (NUMERIC, "µ¹×÷⁄№∂∆∏∑√∞∩∫≈≠≡≤≥", &[('±', '³'), ('¼', '¾')]),
    (FACE, "°ŌŐŪŲ", &[('Ò', 'Ö'), ('Ù', 'Ü'), ('ò', 'ö'), ('ø', 'ü')]),
    (UPPER, "ØÜÝĀĂĄĆČĎĐĒĖĘĚĞĢĪİĶĹĻĽŁŃŅŇŒŘŚŞŠŢŤŮŰŸŹŻŽҐ", &[('À', 'Ñ')]),
    (LOWER, "üāăąćčďđēėęěğģīįķĺļľłœŕśşšťźżžґﬁﬂ", &[('ß', 'ñ')]),
    (UPPER_OTHER, "ÞΆΌΎΏ", &[('Έ', 'Ί'), ('Α', 'Ϋ'), ('Ё', 'Я')]),
    (LOWER_OTHER, "", &[('ά', 'ω'), ('а', 'џ')]),
    (BOX, "│┌┐┘├┤┬┼▀▄█▌", &[('═', '╬'), ('▐', '▓')]),
];

/// The classes of each character in [`MEMBERS`].
static KNOWN: LazyLock<HashMap<char, Classes>> = LazyLock::new(|| {
    let mut known = HashMap::new();
    for (class, singles, ranges) in MEMBERS {
        let members = singles.chars().chain(ranges.iter().flat_map(|&(first, last)| first..=last));
        members.for_each(|it| *known.entry(it).or_default() |= class);
    }
    known
});

/// The characters that match one position of a rule: members of classes, and single characters.
type Slot = (Classes, &'static str);

const fn of(classes: Classes) -> Slot {
    (classes, "")
}

const fn one_of(characters: &'static str) -> Slot {
    (0, characters)
}

/// The characters after each `Ø` or `Ù` in Arabic text that was decoded as Windows-1252.
const ARABIC: Slot = (COMMON | CURRENCY | BAD | NUMERIC | OPENING, "ŸŠ®°µ»");

/// Sequences that indicate mojibake. A text is bad if it contains one of them.
const RULES: &[&[Slot]] = &[
    &[of(C1)],
    &[of(BAD | LOWER | UPPER | BOX | OPENING | CLOSING | CURRENCY | NUMERIC | LAW), of(BAD)],
    &[of(BAD), of(LOWER | UPPER | BOX | OPENING | CLOSING | CURRENCY | NUMERIC | LAW)],
    &[of(LATIN), of(LOWER_OTHER | UPPER_OTHER), of(BAD)],
    &[of(LOWER | LOWER_OTHER | BOX | CLOSING | CURRENCY | NUMERIC), of(UPPER)],
    &[of(BOX | CLOSING | CURRENCY | NUMERIC), of(LOWER)],
    &[of(LOWER | BOX | CLOSING), of(CURRENCY)],
    &[of(WHITE), of(UPPER), of(CURRENCY)],
    &[of(UPPER | BOX), of(NUMERIC | LAW)],
    &[of(LOWER | UPPER | BOX | CURRENCY | CLOSING), of(OPENING), of(NUMERIC)],
    &[of(LOWER | UPPER | CURRENCY | NUMERIC | BOX | LAW), of(CLOSING), of(OPENING)],
    &[of(CURRENCY | NUMERIC | BOX), of(OPENING)],
    &[of(LATIN_LOWER), of(UPPER), of(OPENING | CURRENCY)],
    &[of(BOX), of(FACE | CLOSING)],
    &[of(LOWER | UPPER | CURRENCY | NUMERIC | OPENING | CLOSING | LAW), of(BOX)],
    &[of(LOWER | UPPER), of(OPENING | CLOSING), of(WORD)],
    &[one_of("Œœ"), of(NOT_LATIN)],
    &[of(UPPER), one_of("°")],
    // UTF-8 decoded as Windows-1252: Latin, Arabic, South Asian scripts, and `à`.
    &[one_of("ÂÃÎÐ"), (OPENING | CLOSING, "€œŠš¢£Ÿž\u{a0}\u{ad}°·–—´")],
    &[one_of("×"), one_of("²³")],
    &[one_of("ØÙ"), ARABIC, one_of("ØÙ"), ARABIC],
    &[one_of("à"), one_of("²µ¹¼½¾")],
    &[one_of("Ã"), one_of("\u{a0}¡")],
    &[of(LATIN_LOWER), one_of("ÃÂ"), one_of(" ")],
    &[of(LATIN_LOWER), of(WHITE), one_of("ÃÂ"), one_of(" ")],
    &[(LATIN_LOWER | CLOSING, ".,?!"), one_of("Â"), (OPENING | CLOSING, " ")],
    // UTF-8 decoded as Mac Roman.
    &[one_of("√"), one_of("±∂†≠®™´≤≥¥µø")],
    &[one_of("≈"), one_of("°¢")],
    &[one_of("‚"), one_of("Ä"), one_of("ìîïòôúùû†°¢π")],
    &[one_of("‚"), one_of("âó"), one_of("àä°ê")],
    // UTF-8 decoded as Windows-1251. The second rule is for text that was wrongly decoded twice.
    &[one_of("в"), one_of("Ђ")],
    &[one_of("Г"), one_of("ў"), one_of("В"), one_of("Ђ"), one_of("В"), of(NOT_NEWLINE), (LATIN, " ")],
    &[one_of("ВГРС"), (C1 | BAD | OPENING | CLOSING | CURRENCY, "°µ"), one_of("ВГРС")],
    // UTF-8 decoded as Windows-1253.
    &[one_of("β"), one_of("€"), one_of("™\u{a0}Ά\u{ad}®°")],
    &[one_of("ΒΓΞΟ"), (C1 | BAD | OPENING | CLOSING | CURRENCY, "°"), one_of("ΒΓΞΟ")],
    // UTF-8 decoded as Windows-1257.
    &[one_of("ā"), one_of("€")],
];

/// Whether a text looks like mojibake.
pub(super) fn is_bad(text: &str) -> bool {
    if text.is_ascii() {
        return false;
    }
    let signs: Vec<(char, Classes)> = text.chars().map(|it| (it, classes(it))).collect();
    let begins = |rest: &[(char, Classes)], rule: &[Slot]| {
        rest.len() >= rule.len() && rest.iter().zip(rule).all(|(&sign, &slot)| matches(sign, slot))
    };
    let is_bad_at = |at: usize| signs.get(at..).is_some_and(|rest| RULES.iter().any(|rule| begins(rest, rule)));
    text.starts_with("Ã ") || text.starts_with("Â ") || (0..signs.len()).any(is_bad_at)
}

fn matches((character, classes): (char, Classes), (allowed, characters): Slot) -> bool {
    classes & allowed != 0 || characters.contains(character)
}

const NO_CLASS: Classes = 0;

fn classes(character: char) -> Classes {
    let is_letter = character.is_ascii_alphabetic();
    let of_all = [
        (LATIN, is_letter),
        (NOT_LATIN, !is_letter),
        (LATIN_LOWER, character.is_ascii_lowercase()),
        (WHITE, is_space(character)),
        (WORD, is_word(character)),
        (NOT_NEWLINE, character != '\n'),
    ];
    let listed = if character.is_ascii() { None } else { KNOWN.get(&character) };
    let listed = listed.map_or(NO_CLASS, |classes| *classes);
    of_all.iter().filter(|(_, is_member)| *is_member).fold(listed, |all, (class, _)| all | class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_mojibake_and_nothing_else() {
        for bad in
            ["Ã©", "donâ€™t", "1 â‚¬", "\u{93}a\u{94}", "Ã ", "РџСЂРёРІРµС‚", "вЂ", "‚Äî", "â”Œ", "ÐŸÑ€Ð¸", "5 Å°"]
        {
            assert!(is_bad(bad), "{bad}");
        }
        for good in
            ["", "plain", "café “façade”", "привет", "ελληνικά", "(ó﹏ò)", "╔══╗", "20° ½", "œuvre", "Ã", "日本語"]
        {
            assert!(!is_bad(good), "{good}");
        }
    }
}
