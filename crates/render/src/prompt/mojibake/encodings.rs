//! The single-byte encodings with which UTF-8 is often wrongly decoded.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The characters of the bytes from 0x80, in two halves. A dot stands for the character whose code equals the byte.
struct Table {
    /// Whether byte 0x1a decodes to U+FFFD, the replacement for a lost character.
    has_lost: bool,
    /// Whether a space may have been byte 0xa0. In Mac Roman, a dash and a space would become a letter.
    has_spaces: bool,
    halves: [&'static str; 2],
}

const OWN: &str = "................................................................";

const WINDOWS_1252: &str = "€.‚ƒ„…†‡ˆ‰Š‹Œ.Ž..‘’“”•–—˜™š›œ.žŸ................................";

/// The encodings, in the order in which they are tried. A byte that Windows leaves undefined decodes to the character
/// with the same code.
const TABLES: [Table; 10] = [
    // Latin-1.
    Table { has_lost: false, has_spaces: true, halves: [OWN, OWN] },
    windows([WINDOWS_1252, OWN]),
    // Windows-1251, 1250, 1253, 1254 and 1257.
    windows([
        "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—.™љ›њќћџ.ЎўЈ.Ґ..Ё.Є....Ї..Ііґ...ё№є.јЅѕї",
        "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя",
    ]),
    windows([
        "€.‚.„…†‡.‰Š‹ŚŤŽŹ.‘’“”•–—.™š›śťžź.ˇ˘Ł.Ą....Ş....Ż..˛ł.....ąş.Ľ˝ľż",
        "Ŕ..Ă.ĹĆ.Č.Ę.Ě..ĎĐŃŇ..Ő..ŘŮ.Ű..Ţ.ŕ..ă.ĺć.č.ę.ě..ďđńň..ő..řů.ű..ţ˙",
    ]),
    windows([
        "€.‚ƒ„…†‡.‰.‹.....‘’“”•–—.™.›.....\u{385}Ά............―....\u{384}...ΈΉΊ.Ό.ΎΏ",
        "ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ.ΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ.",
    ]),
    windows([
        "€.‚ƒ„…†‡ˆ‰Š‹Œ....‘’“”•–—˜™š›œ..Ÿ................................",
        "................Ğ............İŞ.................ğ............ış.",
    ]),
    windows([
        "€.‚.„…†‡.‰.‹.¨ˇ¸.‘’“”•–—.™.›.¯˛.........Ø.Ŗ....Æ........ø.ŗ....æ",
        "ĄĮĀĆ..ĘĒČ.ŹĖĢĶĪĻŠŃŅ.Ō...ŲŁŚŪ.ŻŽ.ąįāć..ęēč.źėģķīļšńņ.ō...ųłśū.żž˙",
    ]),
    // ISO-8859-2, Mac Roman, and code page 437.
    Table {
        has_lost: false,
        has_spaces: true,
        halves: [
            ".................................Ą˘Ł.ĽŚ..ŠŞŤŹ.ŽŻ.ą˛ł.ľśˇ.šşťź˝žż",
            "Ŕ..Ă.ĹĆ.Č.Ę.Ě..ĎĐŃŇ..Ő..ŘŮ.Ű..Ţ.ŕ..ă.ĺć.č.ę.ě..ďđńň..ő..řů.ű..ţ˙",
        ],
    },
    Table {
        has_lost: false,
        has_spaces: false,
        halves: [
            "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°..§•¶ß®.™´¨≠ÆØ∞.≤≥¥.∂∑∏π∫ªºΩæø",
            "¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ",
        ],
    },
    Table {
        has_lost: false,
        has_spaces: true,
        halves: [
            "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
            "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}",
        ],
    },
];

/// The number of encodings (Latin-1 and the Windows code pages) that are used to detect UTF-8 in text of mixed
/// encodings.
const WITH_CLUES: usize = 7;

const fn windows(halves: [&'static str; 2]) -> Table {
    Table { has_lost: true, has_spaces: true, halves }
}

pub(super) struct Encoding {
    pub(super) has_lost: bool,
    pub(super) has_spaces: bool,
    bytes: HashMap<char, u8>,
}

pub(super) static ENCODINGS: LazyLock<Vec<Encoding>> = LazyLock::new(|| TABLES.iter().map(Encoding::new).collect());

impl Encoding {
    fn new(table: &Table) -> Self {
        let high = table.halves.iter().flat_map(|half| half.chars());
        let bytes = (0x80..=0xff).zip(high).map(|(byte, it)| (if it == '.' { char::from(byte) } else { it }, byte));
        let lost = if table.has_lost { char::REPLACEMENT_CHARACTER } else { '\u{1a}' };
        let bytes = bytes.chain([(lost, 0x1a)]).collect();
        Self { has_lost: table.has_lost, has_spaces: table.has_spaces, bytes }
    }

    fn byte(&self, character: char) -> Option<u8> {
        match u8::try_from(character) {
            Ok(byte) if byte.is_ascii() && byte != 0x1a => Some(byte),
            _ => self.bytes.get(&character).copied(),
        }
    }

    /// Encodes a text. Returns `None` if the encoding lacks one of its characters.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|it| self.byte(it)).collect()
    }
}

/// Returns the Windows-1252 character for a control character from 0x80 to 0x9f, or the control character itself where
/// Windows-1252 has no character. Returns `None` for any other character.
pub(in crate::prompt) fn windows_1252(character: char) -> Option<char> {
    let index = u32::from(character).checked_sub(0x80).filter(|index| *index < 0x20)?;
    let found = WINDOWS_1252.chars().nth(index as usize)?;
    Some(if found == '.' { character } else { found })
}

/// The possible roles in UTF-8 of the bytes that decode to a character.
#[derive(Clone, Copy, Default)]
pub(super) struct Clue {
    pub(super) leads_two: bool,
    pub(super) leads_three: bool,
    pub(super) leads_four: bool,
    pub(super) continues: bool,
}

static CLUES: LazyLock<HashMap<char, Clue>> = LazyLock::new(|| {
    let mut clues: HashMap<char, Clue> = HashMap::new();
    for (&character, byte) in ENCODINGS.iter().take(WITH_CLUES).flat_map(|it| &it.bytes) {
        let clue = clues.entry(character).or_default();
        match byte {
            0x80..=0xbf => clue.continues = true,
            0xc2..=0xdf => clue.leads_two = true,
            0xe0..=0xef => clue.leads_three = true,
            // Few four-byte characters start with another byte.
            0xf0 | 0xf3 => clue.leads_four = true,
            _ => {}
        }
    }
    clues
});

pub(super) fn clue(character: char) -> Clue {
    // A character that is in none of the encodings has no role.
    const NO_ROLE: Clue = Clue { leads_two: false, leads_three: false, leads_four: false, continues: false };
    if character.is_ascii() { NO_ROLE } else { CLUES.get(&character).copied().unwrap_or(NO_ROLE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_contain_each_byte_once() {
        for encoding in ENCODINGS.iter() {
            let mut bytes: Vec<u8> = encoding.bytes.values().copied().collect();
            bytes.sort_unstable();
            assert_eq!(bytes, std::iter::once(0x1a).chain(0x80..=0xff).collect::<Vec<u8>>());
        }
    }
}
