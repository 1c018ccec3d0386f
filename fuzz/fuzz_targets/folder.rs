#![no_main]

use libfuzzer_sys::fuzz_target;
use trinart_ckpt_formats::StoredCheckpoint;
use trinart_ckpt_formats::containers::diffusers::companions;
use trinart_ckpt_fuzz::{check, open, path, write};

// The first byte selects the file that is the rest of the input.
fuzz_target!(|data: &[u8]| {
    let files = [
        ("folder/model_index.json", &br#"{"vae": ["diffusers", "AutoencoderKL"], "unet": ["diffusers", "U"]}"#[..]),
        ("folder/vae/config.json", b"{}"),
        ("folder/unet/diffusion_pytorch_model.safetensors.index.json", br#"{"weight_map": {"a": "b.safetensors"}}"#),
        (
            "folder/unet/b.safetensors",
            b"\x38\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}   AB",
        ),
        ("folder/vae/diffusion_pytorch_model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
    ];
    let Some((selected, content)) = data.split_first() else { return };
    for (index, (name, usual)) in files.iter().enumerate() {
        write(name, if index == usize::from(*selected) % files.len() { content } else { usual });
    }
    open(&path("folder"));
    if let Ok(stored) = StoredCheckpoint::open(path("folder"))
        && let Err(error) = companions(&stored)
    {
        check(&error);
    }
});
