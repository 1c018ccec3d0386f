//! Reads the picture files that Pillow and piexif write for WebUI and NovelAI. `fixtures/render/make_picture_files.py` makes
//! them.

use trinart_ckpt_render::picture::DecodedPicture;
use trinart_ckpt_render::settings::Infotext;

use crate::tiny::fixture;

const FIELDS: &str = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 64x64, Version: v1.10.1";

fn decode(name: &str) -> DecodedPicture {
    DecodedPicture::from_bytes(&std::fs::read(fixture("files").join(name)).unwrap()).unwrap()
}

#[test]
fn reads_pixels_and_parameters_of_every_format() {
    for (name, prompt, tolerance) in [
        ("itxt.png", "a cat, 猫, (naïve:1.2)", 0),
        ("compressed.png", "a cat, 猫, (naïve:1.2)", 0),
        ("ztxt.png", "a cat, chat, (naïve:1.2)", 0),
        ("lossless.webp", "a cat, 猫, (naïve:1.2)", 0),
        ("webui.webp", "a cat, 猫, (naïve:1.2)", 16),
        ("webui.jpg", "a cat, 猫, (naïve:1.2)", 16),
    ] {
        let found = decode(name);
        let text = format!("{prompt}\nNegative prompt: dog\n{FIELDS}");
        assert_eq!(found.parameters.as_deref(), Some(text.as_str()), "{name}");
        let picture = found.picture;
        assert_eq!((picture.width, picture.height), (64, 64), "{name}");
        for (index, pixel) in picture.rgb.as_chunks::<3>().0.iter().enumerate() {
            let expected = [4 * (index % 64) as u8, 4 * (index / 64) as u8, 128];
            let is_near = pixel.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= tolerance);
            assert!(is_near, "{name}: {pixel:?} at {index}, expected {expected:?}");
        }
    }
}

#[test]
fn reads_the_parameters_of_novelai_as_webui_does() {
    let text = decode("novelai.png").parameters.unwrap();
    let found = Infotext::parse(&text);
    assert_eq!((found.prompt.as_str(), found.negative.as_str()), ("a cat", "lowres"));
    for (name, value) in [("Steps", "28"), ("Sampler", "k_euler_ancestral"), ("CFG scale", "11.0"), ("ENSD", "31337")] {
        assert_eq!(found.get(name), Some(value), "{text}");
    }
}

#[test]
fn names_formats_that_it_does_not_read() {
    for (bytes, name) in [
        (&b"\0\0\0\x20ftypavif\0\0\0\0avif"[..], "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0", "JPEG XL"),
        (b"\xff\x0a\x00\x00", "JPEG XL"),
        (b"GIF89a", "GIF"),
        (b"BM\x36\0", "BMP"),
        (b"II*\0\x08", "TIFF"),
    ] {
        let error = DecodedPicture::from_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} pictures are not supported")), "{error}");
    }
}
