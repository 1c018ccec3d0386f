//! The keys of files that are neither a diffusion model nor one of its parts.

use super::super::FileKind::{self, *};
use super::super::model::Model::{self, *};
use super::super::view::Part::{self, *};

/// A kind, the model, and what its keys satisfy. The first rule that holds decides.
pub(in super::super) const RULES: &[(FileKind, Option<Model>, &[Part])] = &[
    (SegmentAnything, Some(Sam2), &[Has("image_encoder.trunk."), Has("sam_mask_decoder.")]),
    (SegmentAnything, Some(Sam), &[Has("mask_decoder."), Has("prompt_encoder."), Has("image_encoder.")]),
    (SegmentAnything, Some(Sam), &[Has("mask_decoder."), Has("prompt_encoder."), Has("vision_encoder.")]),
    (AestheticPredictor, None, &[Start("layers.0."), Start("layers.7."), AtMost(16)]),
    (AestheticPredictor, None, &[Start("fc1."), Start("fc2."), Start("fc3."), Dim("fc1.weight", 1, 768), AtMost(12)]),
    (AestheticPredictor, None, &[AtMost(2), Dim("weight", 0, 1), Rank("weight", 2)]),
    (SafetyChecker, None, &[Has("concept_embeds")]),
    (Captioner, None, &[Has("visual_encoder.blocks.0."), Has("text_decoder.")]),
    (Captioner, None, &[Has("vision_model."), Has("text_decoder.")]),
    (DepthEstimator, Some(MiDas), &[Has("scratch.refinenet1.")]),
    (DepthEstimator, Some(MiDas), &[Has("neck.fusion_stage.layers.0."), Has("head.conv1.")]),
    (Preprocessor, Some(Hed), &[Has("netVggOne."), Has("netScoreOne.")]),
    (Preprocessor, Some(Hed), &[Has("block1.convs.0."), Has("block1.projection.")]),
    (Preprocessor, Some(OpenPose), &[Within("conv1_1"), Within("Mconv7_stage6_L1")]),
    (Preprocessor, Some(OpenPose), &[Within("conv1_1"), Within("Mconv7_stage6")]),
    (Detector, None, &[Has("model.0.conv.weight"), Has("model.1.conv.weight"), Has("model.2.cv1.")]),
];

/// The keys of text and image encoders.
pub(in super::super) const ENCODERS: &[(FileKind, Option<Model>, &[Part])] = &[
    (TextEncoder, Some(ChatGlm), &[Has("encoder.layers.0.self_attention.query_key_value.")]),
    (TextEncoder, Some(XlmRoberta), &[Has("roberta.encoder.layer.0.")]),
    (
        TextEncoder,
        Some(XlmRoberta),
        &[Has("encoder.layer.0.attention.self.query."), Dim("embeddings.word_embeddings.weight", 0, 250_002)],
    ),
    (TextEncoder, Some(Bert), &[Has("encoder.layer.0.attention.self.query.")]),
    (LanguageModel, Some(Gemma3), &[Has("layers.0.post_feedforward_layernorm."), Has("layers.0.self_attn.q_norm.")]),
    (LanguageModel, Some(Gemma2), &[Has("layers.0.post_feedforward_layernorm.")]),
    (LanguageModel, Some(Qwen25Vl), &[Has("layers.0.self_attn.k_proj.bias"), Has("visual.blocks.0.")]),
    (LanguageModel, Some(Qwen3Vl), &[Has("layers.0.self_attn.q_norm."), Has("visual.blocks.0.")]),
    (LanguageModel, Some(Qwen2), &[Has("layers.0.self_attn.k_proj.bias"), Has("layers.0.mlp.gate_proj.")]),
    (LanguageModel, Some(Qwen3), &[Has("layers.0.self_attn.q_norm."), Has("layers.0.mlp.gate_proj.")]),
    (LanguageModel, Some(Phi3), &[Has("layers.0.self_attn.qkv_proj."), Has("layers.0.mlp.gate_up_proj.")]),
    (LanguageModel, Some(Llama), &[Has("layers.0.self_attn.q_proj."), Has("layers.0.mlp.gate_proj.")]),
    (LanguageModel, None, &[Has("layers.0.self_attn.q_proj."), Has("embed_tokens.")]),
    (ClipBoth, None, &[Has("text_model.encoder.layers.0."), Has("vision_model.encoder.layers.0.")]),
    (ClipVision, None, &[Has("open_clip.model.visual.")]),
    // Stable Video Diffusion leaves a part of the text encoder beside the image encoder, without its transformer.
    (ClipBoth, Some(OpenClip), &[Start("visual."), Start("transformer.resblocks.0."), Has("token_embedding.")]),
    (VisionModel, Some(SigLip), &[Has("vision_model.head.probe")]),
    (VisionModel, Some(SigLip), &[Has("head.probe"), Has("encoder.layers.0.")]),
    (ClipVision, None, &[Has("vision_model.encoder.layers.0.")]),
    (ClipVision, None, &[Has("vision_model.embeddings.")]),
    (ClipVision, None, &[Has("embeddings.patch_embedding."), Has("encoder.layers.0.")]),
    (ClipVision, Some(OpenClip), &[Start("visual.")]),
    (VisionModel, Some(Dino), &[Has("encoder.layer.0.attention.attention.query."), Has("embeddings.cls_token")]),
    (VisionModel, Some(Dino), &[Has("encoder.layer.0.attention.q_proj."), Has("embeddings.cls_token")]),
    (VisionModel, Some(Dino), &[Has("blocks.0.attn.qkv."), Has("cls_token"), Has("patch_embed.proj.")]),
];
