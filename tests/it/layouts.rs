//! Compares the layout tables with the key lists of the libraries (`fixtures/layouts/make.py`), in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use Architecture::{Sd1, Sd2, SdxlBase, SdxlRefiner, Ssd1b, StableVideo, Vega};
use Folder::{ControlNet, ImageEncoder, TextEncoder, TextEncoder2, Unet, Vae};
use trinart_ckpt::models::detection::{self, Detection, Naming};
use trinart_ckpt::models::family::{Architecture, Task};
use trinart_ckpt::models::layout::{Folder, Layout, Qkv, TensorSchema, Transform};
use trinart_ckpt::models::vae;

type Shapes = BTreeMap<String, Vec<u64>>;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn list(name: &str) -> Vec<(String, Vec<u64>)> {
    let text = fs::read_to_string(path(name)).unwrap();
    let row = |line: &str| {
        let [key, _, shape, ..] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let dims = if shape == "-" { vec![] } else { shape.split('x').map(|dim| dim.parse().unwrap()).collect() };
        (key.to_owned(), dims)
    };
    text.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

fn shapes(name: &str) -> Shapes {
    list(name).into_iter().collect()
}

/// The key lists of a component: LDM and diffusers.
fn lists(architecture: Architecture, folder: Folder) -> (Vec<(String, Vec<u64>)>, Shapes) {
    let rename = |list: Vec<(String, Vec<u64>)>, from: &str, to: &str| {
        list.into_iter().map(|(key, dims)| (format!("{to}{}", key.strip_prefix(from).unwrap()), dims)).collect()
    };
    let sd1 = |prefix: &str| -> Vec<(String, Vec<u64>)> {
        list("sd1-ldm.keys").into_iter().filter(|(key, _)| key.starts_with(prefix)).collect()
    };
    let clip = "conditioner.embedders.0.transformer.";
    let (ldm, diffusers) = match (architecture, folder) {
        (Sd1, Unet) => (sd1("model.diffusion_model."), "sd1-unet"),
        (Sd2, Unet) => (list("layouts/sd2-unet.ldm.keys"), "sd2-unet"),
        (SdxlBase, Unet) => (list("layouts/sdxl-unet.ldm.keys"), "sdxl-unet"),
        (SdxlRefiner, Unet) => (list("layouts/refiner-unet.ldm.keys"), "refiner-unet"),
        (Ssd1b, Unet) => (list("layouts/ssd-1b-unet.ldm.keys"), "ssd-1b-unet"),
        (Vega, Unet) => (list("layouts/vega-unet.ldm.keys"), "vega-unet"),
        (StableVideo, Unet) => (list("layouts/svd-unet.ldm.keys"), "svd-unet"),
        (StableVideo, Vae) => (list("layouts/svd-vae.ldm.keys"), "svd-vae"),
        (StableVideo, ImageEncoder) => (list("layouts/svd-image-encoder.ldm.keys"), "svd-image-encoder"),
        (_, Vae) => (list("layouts/autoencoder.ldm.keys"), "autoencoder"),
        (Sd1, TextEncoder) => (sd1("cond_stage_model."), "clip-l"),
        (Sd2, TextEncoder) => (list("layouts/sd2-openclip.ldm.keys"), "sd2-openclip"),
        // The same network under another prefix.
        (SdxlBase | Ssd1b | Vega, TextEncoder) => {
            (rename(sd1("cond_stage_model."), "cond_stage_model.transformer.", clip), "clip-l")
        }
        (SdxlBase | Ssd1b | Vega, TextEncoder2) => (list("layouts/sdxl-openclip.ldm.keys"), "sdxl-openclip"),
        (SdxlRefiner, TextEncoder2) => {
            let ldm = list("layouts/sdxl-openclip.ldm.keys");
            (rename(ldm, "conditioner.embedders.1.", "conditioner.embedders.0."), "sdxl-openclip")
        }
        (Sd1, ControlNet) => (list("layouts/sd1-controlnet.ldm.keys"), "sd1-controlnet"),
        (Sd2, ControlNet) => (list("layouts/sd2-controlnet.ldm.keys"), "sd2-controlnet"),
        (SdxlBase, ControlNet) => (list("layouts/sdxl-controlnet.ldm.keys"), "sdxl-controlnet"),
        _ => panic!("{architecture:?} has no {folder:?}"),
    };
    (ldm, shapes(&format!("layouts/{diffusers}.keys")))
}

fn each_component() -> impl Iterator<Item = (Architecture, Folder)> {
    let of_checkpoints =
        Architecture::ALL.iter().flat_map(|&it| Folder::of(it).iter().map(move |&folder| (it, folder)));
    of_checkpoints.chain([Sd1, Sd2, SdxlBase].map(|architecture| (architecture, ControlNet)))
}

fn schema<'a>(tensors: impl Iterator<Item = &'a TensorSchema>) -> Vec<(String, Vec<u64>)> {
    tensors.map(|tensor| (tensor.key.clone(), tensor.dims.clone())).collect()
}

#[test]
fn matches_the_key_lists_of_the_libraries() {
    for (architecture, folder) in each_component() {
        let (ldm, diffusers) = lists(architecture, folder);
        let layout = Layout::of(architecture);
        let found = schema(layout.ldm_schema(folder));
        assert_eq!(
            found.iter().cloned().collect::<Shapes>(),
            ldm.iter().cloned().collect(),
            "{architecture:?} {folder:?}"
        );
        let count = found.len();
        assert_eq!(count, ldm.len());
        let found = schema(layout.diffusers_schema(folder));
        assert_eq!(found.iter().cloned().collect::<Shapes>(), diffusers, "{architecture:?} {folder:?}");
        assert_eq!(found.len(), diffusers.len());
        let prefix = folder.ldm_prefix(architecture).unwrap();
        assert!(layout.ldm_schema(folder).all(|tensor| tensor.key.starts_with(prefix)));
    }
}

/// Shapes do not distinguish two norms, or a query and a key, so this test uses the mapping of the diffusers loader.
#[test]
fn maps_each_tensor_as_the_diffusers_loader_does() {
    let lists = [
        (Sd1, Unet, "sd1-unet"),
        (Sd2, Unet, "sd2-unet"),
        (SdxlBase, Unet, "sdxl-unet"),
        (SdxlRefiner, Unet, "refiner-unet"),
        (Ssd1b, Unet, "ssd-1b-unet"),
        (Vega, Unet, "vega-unet"),
        (Sd1, Vae, "autoencoder"),
        (Sd2, Vae, "autoencoder"),
        (SdxlBase, Vae, "autoencoder"),
        (SdxlRefiner, Vae, "autoencoder"),
        (Sd1, TextEncoder, "clip-l"),
        (Sd2, TextEncoder, "sd2-openclip"),
        (SdxlBase, TextEncoder, "clip-l"),
        (SdxlBase, TextEncoder2, "sdxl-openclip"),
        (SdxlRefiner, TextEncoder2, "sdxl-openclip"),
        (Sd1, ControlNet, "sd1-controlnet"),
        (Sd2, ControlNet, "sd2-controlnet"),
        (SdxlBase, ControlNet, "sdxl-controlnet"),
        (StableVideo, Unet, "svd-unet"),
        (StableVideo, Vae, "svd-vae"),
        (StableVideo, ImageEncoder, "svd-image-encoder"),
    ];
    for (architecture, folder, name) in lists {
        let text = fs::read_to_string(path(&format!("layouts/{name}.keys"))).unwrap();
        let prefix = folder.ldm_prefix(architecture).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let [key, _, _, from, how] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let change = match how {
                "=" => Transform::None,
                "T" => Transform::Transpose,
                third => Transform::Split(Qkv::ALL[third.parse::<usize>().unwrap()]),
            };
            let place = Layout::of(architecture).to_ldm(folder, key).unwrap();
            assert_eq!((place.key, place.transform), (&*format!("{prefix}{from}"), change.inverse()), "{line}");
        }
    }
}

#[test]
fn keeps_the_order_of_the_ldm_code() {
    // `sd1-ldm.keys` has the order of a published file, not that of the code.
    for (architecture, folder) in each_component() {
        if architecture == Sd1 && folder != Vae || folder == TextEncoder && architecture.has_two_text_encoders() {
            continue;
        }
        let (ldm, _) = lists(architecture, folder);
        assert_eq!(schema(Layout::of(architecture).ldm_schema(folder)), ldm, "{architecture:?} {folder:?}");
    }
}

#[test]
fn counts_the_known_numbers_of_tensors_and_parameters() {
    let expected = [
        (Sd1, Unet, 686, 686),
        (Sd1, Vae, 248, 248),
        (Sd1, TextEncoder, 197, 196),
        (Sd2, Unet, 686, 686),
        (Sd2, Vae, 248, 248),
        (Sd2, TextEncoder, 294, 372),
        (SdxlBase, Unet, 1680, 1680),
        (SdxlBase, Vae, 248, 248),
        (SdxlBase, TextEncoder, 197, 196),
        (SdxlBase, TextEncoder2, 390, 517),
        (SdxlRefiner, Unet, 1220, 1220),
        (SdxlRefiner, Vae, 248, 248),
        (SdxlRefiner, TextEncoder2, 390, 517),
        (Ssd1b, Unet, 944, 944),
        (Ssd1b, Vae, 248, 248),
        (Ssd1b, TextEncoder, 197, 196),
        (Ssd1b, TextEncoder2, 390, 517),
        (Vega, Unet, 564, 564),
        (Vega, Vae, 248, 248),
        (Vega, TextEncoder, 197, 196),
        (Vega, TextEncoder2, 390, 517),
        (StableVideo, Unet, 1428, 1428),
        (StableVideo, Vae, 374, 374),
        (StableVideo, ImageEncoder, 398, 520),
        (Sd1, ControlNet, 340, 340),
        (Sd2, ControlNet, 340, 340),
        (SdxlBase, ControlNet, 844, 844),
    ];
    let counts = each_component().map(|(architecture, folder)| {
        let layout = Layout::of(architecture);
        (architecture, folder, layout.ldm_schema(folder).count(), layout.diffusers_schema(folder).count())
    });
    assert_eq!(counts.collect::<Vec<_>>(), expected);
    let parameters =
        |folder| -> u64 { Layout::of(Sd1).ldm_schema(folder).map(|tensor| tensor.dims.iter().product::<u64>()).sum() };
    assert_eq!(
        (parameters(Unet), parameters(Vae), parameters(TextEncoder)),
        (859_520_964, 83_653_863, 123_060_480 + 77)
    );
}

#[test]
fn maps_a_checkpoint_to_a_folder() {
    for (architecture, folder) in each_component() {
        let (ldm, diffusers) = lists(architecture, folder);
        let layout = Layout::of(architecture);
        let mut made = Shapes::new();
        for (key, dims) in &ldm {
            let places: Vec<_> = layout.to_diffusers(key).collect();
            assert!(matches!(places.len(), 1 | 3), "{key}");
            for place in places.into_iter().filter(|place| place.in_folder) {
                assert_eq!(place.folder, folder);
                assert_eq!(made.insert(place.key.to_owned(), place.fit(dims).unwrap()), None, "{key}");
            }
        }
        assert_eq!(made, diffusers, "{architecture:?} {folder:?}");
    }
}

#[test]
fn maps_a_folder_to_a_checkpoint() {
    for (architecture, folder) in each_component() {
        let (ldm, diffusers) = lists(architecture, folder);
        let layout = Layout::of(architecture);
        let mut made = Shapes::new();
        let mut thirds: BTreeMap<String, BTreeSet<Qkv>> = BTreeMap::new();
        for (key, dims) in &diffusers {
            let place = layout.to_ldm(folder, key).unwrap();
            let before = made.insert(place.key.to_owned(), place.fit(dims).unwrap());
            match place.transform {
                Transform::Join(third) => {
                    assert!(thirds.entry(place.key.to_owned()).or_default().insert(third), "{key}")
                }
                _ => assert_eq!(before, None, "{key}"),
            }
        }
        assert!(thirds.values().all(|thirds| thirds.len() == 3));
        let missing: Vec<_> = ldm.iter().filter(|(key, _)| !made.contains_key(key)).map(|(key, _)| key).collect();
        // Folders lack position_ids, CLIP's logit scale and, for SD v2, the last layer and the text projection.
        let expected = match (architecture, folder) {
            (Sd2, TextEncoder) => 14,
            // What the original code leaves of the text encoder.
            (_, ImageEncoder) => 6,
            (_, TextEncoder | TextEncoder2) => 1,
            _ => 0,
        };
        assert_eq!(missing.len(), expected, "{missing:?}");
        made.extend(ldm.iter().filter(|(key, _)| missing.contains(&key)).cloned().collect::<Shapes>());
        assert_eq!(made, ldm.into_iter().collect());
    }
}

#[test]
fn round_trips_every_key() {
    for &architecture in Architecture::ALL {
        let layout = Layout::of(architecture);
        assert_eq!(layout.architecture(), architecture);
        for pair in layout.pairs() {
            let back = layout.to_ldm(pair.folder, &pair.diffusers.key).unwrap();
            assert_eq!((back.key, back.transform), (pair.ldm.key.as_str(), pair.transform.inverse()));
            let there = layout.to_diffusers(&pair.ldm.key);
            let there: Vec<_> = there.filter(|place| place.key == pair.diffusers.key).collect();
            assert_eq!(there.len(), 1);
            assert_eq!(
                (there[0].folder, there[0].transform, there[0].dims),
                (pair.folder, pair.transform, &pair.diffusers.dims[..])
            );
        }
    }
}

#[test]
fn maps_each_spelling_to_one_tensor() {
    for &architecture in Architecture::ALL {
        let layout = Layout::of(architecture);
        let (mut ldm, mut diffusers) = (BTreeMap::new(), BTreeSet::new());
        for pair in layout.pairs() {
            for key in pair.ldm_spellings() {
                let written: &mut BTreeSet<_> = ldm.entry(key.to_owned()).or_default();
                written.insert(pair.ldm.key.clone());
                assert_eq!(written.len(), 1, "{written:?}");
                assert!(layout.to_diffusers(key).any(|place| place.key == pair.diffusers.key), "{key}");
            }
            for key in pair.diffusers_spellings() {
                assert!(diffusers.insert((pair.folder, key.to_owned())), "{key}");
                assert_eq!(layout.to_ldm(pair.folder, key).unwrap().key, pair.ldm.key);
            }
        }
    }
}

#[test]
fn agrees_with_the_keys_that_merge_vae_replaces() {
    let keys: BTreeSet<String> = Layout::of(Sd1)
        .ldm_schema(Vae)
        .map(|tensor| tensor.key.strip_prefix(vae::PREFIX).unwrap().to_owned())
        .collect();
    assert_eq!(keys, vae::keys());
}

#[test]
fn accepts_alternative_spellings() {
    let to_diffusers = |architecture, key: &str| {
        let places = Layout::of(architecture).to_diffusers(key);
        places.map(|place| (place.key.to_owned(), place.transform)).collect::<Vec<_>>()
    };
    let one = |key: &str| vec![(key.to_owned(), Transform::None)];
    let layer = "encoder.layers.3.mlp.fc1.bias";
    assert_eq!(
        to_diffusers(Sd1, &format!("cond_stage_model.transformer.{layer}")),
        one(&format!("text_model.{layer}"))
    );
    assert_eq!(
        to_diffusers(SdxlBase, &format!("conditioner.embedders.0.transformer.{layer}")),
        one(&format!("text_model.{layer}"))
    );
    let upsampler = "up_blocks.0.upsamplers.0.conv.bias";
    for index in [1, 2] {
        let key = format!("model.diffusion_model.output_blocks.2.{index}.conv.bias");
        assert_eq!(to_diffusers(Sd1, &key), one(upsampler));
        assert_eq!(to_diffusers(SdxlBase, &key), one(upsampler));
    }
    let projection = |leaf: &str| format!("conditioner.embedders.1.model.text_projection{leaf}");
    assert_eq!(to_diffusers(SdxlBase, &projection("")), [("text_projection.weight".to_owned(), Transform::Transpose)]);
    assert_eq!(to_diffusers(SdxlBase, &projection(".weight")), one("text_projection.weight"));
    let turbo = "conditioner.embedders.0.model.transformer.resblocks.22.attn.in_proj_bias";
    let names = ["q", "k", "v"].map(|name| format!("text_model.encoder.layers.22.self_attn.{name}_proj.bias"));
    let expected: Vec<_> = names.into_iter().zip(Qkv::ALL.map(Transform::Split)).collect();
    assert_eq!(to_diffusers(Sd2, turbo), expected);

    let to_ldm = |architecture, folder, key: &str| {
        Layout::of(architecture).to_ldm(folder, key).map(|place| (place.key.to_owned(), place.transform))
    };
    let one = |key: &str| Some((key.to_owned(), Transform::None));
    assert_eq!(to_ldm(Sd1, TextEncoder, layer), one(&format!("cond_stage_model.transformer.text_model.{layer}")),);
    let attention = "encoder.mid_block.attentions.0";
    for (new, old, ldm) in
        [("to_q", "query", "q"), ("to_k", "key", "k"), ("to_v", "value", "v"), ("to_out.0", "proj_attn", "proj_out")]
    {
        let expected = one(&format!("first_stage_model.encoder.mid.attn_1.{ldm}.weight"));
        assert_eq!(to_ldm(Sd1, Vae, &format!("{attention}.{new}.weight")), expected);
        assert_eq!(to_ldm(Sd1, Vae, &format!("{attention}.{old}.weight")), expected);
    }
    let wrong = "up_blocks.0.attentions.2.conv.weight";
    assert_eq!(to_ldm(Sd1, Unet, wrong), one("model.diffusion_model.output_blocks.2.1.conv.weight"));

    // Folders of older versions contain position_ids; only the LDM layout of CLIP ViT-L has a key for them.
    let positions = "text_model.embeddings.position_ids";
    assert_eq!(
        to_ldm(Sd1, TextEncoder, positions),
        one("cond_stage_model.transformer.text_model.embeddings.position_ids")
    );
    assert_eq!(to_ldm(Sd2, TextEncoder, positions), None);
    assert!(Layout::of(Sd2).is_redundant(TextEncoder, positions));
    assert!(!Layout::of(Sd1).is_redundant(TextEncoder, positions));
    assert!(!Layout::of(Sd2).is_redundant(Unet, positions));
    // Some SD v2 folders contain all 24 layers.
    let last = Layout::of(Sd2).to_ldm(TextEncoder, "text_model.encoder.layers.23.layer_norm1.bias").unwrap();
    assert_eq!((last.key, last.in_folder), ("cond_stage_model.model.transformer.resblocks.23.ln_1.bias", false));
}

#[test]
fn rejects_partial_keys() {
    let layout = Layout::of(Sd1);
    for key in [
        "",
        "betas",
        "model.diffusion_model.",
        "model.diffusion_model.out.0.weight.",
        "model.diffusion_model.input_blocks.1.0.in_layers.0.weight.extra",
        "model.diffusion_model.input_blocks.01.0.in_layers.0.weight",
        "first_stage_model.encoder.down.0.block.2.norm1.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "first_stage_model.model.diffusion_model.out.0.weight",
    ] {
        assert_eq!(layout.to_diffusers(key).count(), 0, "{key}");
        assert_eq!(layout.to_ldm(Unet, key), None, "{key}");
    }
    // A key of another component.
    assert_eq!(layout.to_ldm(Vae, "conv_in.weight"), None);
    assert_eq!(layout.to_ldm(TextEncoder2, "text_projection.weight"), None);
}

#[test]
fn fits_convolutions_to_linear_layers_and_back() {
    let key = "model.diffusion_model.input_blocks.1.1.proj_in.weight";
    let fit = |architecture, dims: &[u64]| Layout::of(architecture).to_diffusers(key).next().unwrap().fit(dims);
    assert_eq!(fit(Sd1, &[320, 320, 1, 1]), Some(vec![320, 320, 1, 1]));
    assert_eq!(fit(Sd1, &[320, 320]), Some(vec![320, 320, 1, 1]));
    assert_eq!(fit(Sd2, &[320, 320, 1, 1]), Some(vec![320, 320]));
    assert_eq!(fit(Sd2, &[320, 320, 3, 3]), None);
    let query = Layout::of(Sd1).to_ldm(Vae, "decoder.mid_block.attentions.0.query.weight").unwrap();
    assert_eq!(query.fit(&[512, 512]), Some(vec![512, 512, 1, 1]));
    assert_eq!(query.fit(&[512, 512, 1, 1]), Some(vec![512, 512, 1, 1]));
    let fused = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight";
    let third = Layout::of(Sd2).to_diffusers(fused).next().unwrap();
    assert_eq!(
        (third.fit(&[3072, 1024]), third.fit(&[3073, 1024]), third.fit(&[3072])),
        (Some(vec![1024, 1024]), None, None)
    );
}

#[test]
fn measures_widths_from_shapes() {
    // The fixture has a different small width in each place; all shapes follow from a few of them.
    let facts: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path("tiny-sd1.safetensors.json")).unwrap()).unwrap();
    let rows: Vec<(String, String, Vec<u64>, String)> = serde_json::from_value(facts["tensors"].clone()).unwrap();
    let tiny: Shapes = rows.into_iter().map(|(key, _, dims, _)| (key, dims)).collect();
    let layout = Layout::measured(Sd1, &|key| tiny.get(key).cloned());
    for &folder in Folder::of(Sd1) {
        for tensor in layout.ldm_schema(folder) {
            assert_eq!(Some(&tensor.dims), tiny.get(&tensor.key), "{}", tensor.key);
        }
    }
    // The same widths, measured in a folder with diffusers keys.
    let folder: BTreeMap<(Folder, String), Vec<u64>> = layout
        .pairs()
        .iter()
        .map(|pair| ((pair.folder, pair.diffusers.key.clone()), pair.diffusers.dims.clone()))
        .collect();
    let again = Layout::measured_in_folder(Sd1, &|at, key| folder.get(&(at, key.to_owned())).cloned());
    assert_eq!(again.pairs(), layout.pairs());
    assert_ne!(again.pairs(), Layout::of(Sd1).pairs());
    // Full-size models give the published layout.
    for &architecture in Architecture::ALL {
        let published = Layout::of(architecture);
        let in_ldm: Shapes =
            published.pairs().iter().map(|pair| (pair.ldm.key.clone(), pair.ldm.dims.clone())).collect();
        assert_eq!(Layout::measured(architecture, &|key| in_ldm.get(key).cloned()).pairs(), published.pairs());
        assert_eq!(Layout::measured(architecture, &|_| None).pairs(), published.pairs());
    }
}

// --- Detection -----------------------------------------------------------------------------------------------------

fn detect(shapes: &Shapes) -> Detection {
    detection::detect_by(&|key| shapes.get(key).cloned())
}

fn checkpoint(architecture: Architecture) -> Shapes {
    Folder::of(architecture).iter().flat_map(|&folder| lists(architecture, folder).0).collect()
}

#[test]
fn detects_checkpoints() {
    for &architecture in Architecture::ALL {
        let mut shapes = checkpoint(architecture);
        let found = detect(&shapes);
        assert_eq!(found.architecture(), Some(architecture), "{found:#?}");
        assert!(found.evidence.len() >= 4);
        if architecture == StableVideo {
            assert_eq!((found.naming, found.task), (Some(Naming::Ldm), Some(Task::ImageToVideo)));
            continue;
        }
        assert_eq!((found.naming, found.task), (Some(Naming::Ldm), Some(Task::TextToImage)));
        for (channels, task) in
            [(9, Task::Inpainting), (8, Task::InstructPix2Pix), (5, Task::Depth), (7, Task::Other(7))]
        {
            shapes.get_mut("model.diffusion_model.input_blocks.0.0.weight").unwrap()[1] = channels;
            let found = detect(&shapes);
            assert_eq!((found.architecture(), found.task), (Some(architecture), Some(task)));
        }
        shapes.insert("v_pred".into(), vec![]);
        assert_eq!(detect(&shapes).architecture(), Some(architecture));
    }
}

#[test]
fn detects_components_of_folders() {
    for (architecture, folder) in each_component() {
        // The image encoder is also that of IP-Adapter and unCLIP.
        if folder == ImageEncoder {
            continue;
        }
        let found = detect(&lists(architecture, folder).1);
        assert_eq!(found.naming, Some(Naming::Diffusers));
        let expected = match (architecture, folder) {
            (it, Unet | ControlNet) | (it @ Sd2, TextEncoder) | (it @ StableVideo, Vae) => vec![it],
            (_, Vae) => vec![Sd1, Sd2, SdxlBase, SdxlRefiner],
            (_, TextEncoder) => vec![Sd1, SdxlBase],
            (_, TextEncoder2) => vec![SdxlBase, SdxlRefiner],
            other => panic!("no expectation for {other:?}"),
        };
        assert_eq!(found.candidates(), expected, "{architecture:?} {folder:?} {found:#?}");
        assert_eq!(found.architecture().is_some(), expected.len() == 1);
    }
    // Two components narrow the result further than each alone.
    let of = |folder| detect(&lists(SdxlBase, folder).1);
    assert_eq!(of(TextEncoder).and(of(TextEncoder2)).architecture(), Some(SdxlBase));
    let all = of(Vae).and(of(Unet));
    assert_eq!((all.architecture(), all.task), (Some(SdxlBase), Some(Task::TextToImage)));
}

#[test]
fn detects_narrow_models() {
    // Only the ranks match the published shapes: 2 for linear layers, 4 for convolutions.
    for &architecture in Architecture::ALL {
        let narrow = |mut shapes: Shapes| {
            for dims in shapes.values_mut() {
                dims.iter_mut().for_each(|dim| *dim = if *dim > 4 { *dim / 64 + 6 } else { *dim });
            }
            shapes
        };
        assert_eq!(detect(&narrow(checkpoint(architecture))).architecture(), Some(architecture));
        let found = detect(&narrow(lists(architecture, Unet).1));
        assert_eq!(found.architecture(), Some(architecture), "{found:#?}");
    }
}

#[test]
fn detects_other_spellings_and_prefixes() {
    let renamed = |architecture, from: &str, to: &str| -> Shapes {
        let shapes = checkpoint(architecture).into_iter();
        shapes.map(|(key, dims)| (key.replacen(from, to, 1), dims)).collect()
    };
    let text = "cond_stage_model.transformer.text_model.";
    let novel = renamed(Sd1, text, "cond_stage_model.transformer.");
    assert_eq!(detect(&novel).architecture(), Some(Sd1));
    let turbo = renamed(Sd2, "cond_stage_model.model.", "conditioner.embedders.0.model.");
    assert_eq!(detect(&turbo).architecture(), Some(Sd2));
    let bare: Shapes =
        lists(Sd2, Unet).0.into_iter().map(|(key, dims)| (key.split_at(22).1.to_owned(), dims)).collect();
    assert_eq!(detect(&bare).architecture(), Some(Sd2));
    let flat: Shapes =
        lists(Sd2, TextEncoder).1.into_iter().map(|(key, dims)| (key.replacen("text_model.", "", 1), dims)).collect();
    assert_eq!(detect(&flat).architecture(), Some(Sd2));
    // SD v2 with convolutions in place of linear layers, as in old exports: the context width identifies it.
    let mut old = lists(Sd2, Unet).1;
    old.iter_mut().filter(|(key, _)| key.contains(".proj_")).for_each(|(_, dims)| dims.extend([1, 1]));
    assert_eq!(detect(&old).architecture(), Some(Sd2));
}

#[test]
fn detects_nothing_in_other_models() {
    let nothing = detect(&Shapes::new());
    assert_eq!((nothing.architecture(), nothing.naming, nothing.task), (None, None, None));
    assert!(nothing.candidates().is_empty() && nothing.evidence.is_empty());
    // The text encoder of one model with the UNet of another.
    let mut mixed: Shapes = lists(Sd2, Unet).0.into_iter().collect();
    mixed.extend(lists(Sd1, TextEncoder).0);
    assert!(detect(&mixed).candidates().is_empty());
    // Keys of other models.
    let mut other = checkpoint(Sd2);
    other.insert("embedder.model.ln_final.weight".into(), vec![1024]);
    let found = detect(&other);
    assert_eq!(found.architecture(), None);
    assert_eq!(found.evidence[0].finding, "a key of SD v2 unCLIP");
    // A distilled SDXL with fewer transformer blocks.
    let mut distilled = checkpoint(SdxlBase);
    distilled.retain(|key, _| !key.contains("transformer_blocks.9."));
    assert!(detect(&distilled).candidates().is_empty());
}
