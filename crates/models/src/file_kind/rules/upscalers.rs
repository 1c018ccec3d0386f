//! The keys of upscalers, restorers and inpainting models. The names of the networks are those of spandrel.

use super::super::FileKind::{self, FaceRestorer, FrameInterpolator, Inpainter, Restorer, Upscaler};
use super::super::model::Model::{self, *};
use super::super::view::Part::{self, *};

/// A kind, the model, and what its keys satisfy. The first rule that holds decides.
pub(in super::super) const RULES: &[(FileKind, Model, &[Part])] = &[
    (FaceRestorer, Gfpgan, &[Has("stylegan_decoder."), Has("toRGB.0.")]),
    (FaceRestorer, Gfpgan, &[Has("stylegan_decoderdotto_rgbs")]),
    (FaceRestorer, CodeFormer, &[Has("position_emb"), Has("idx_pred_layer.1."), Has("quantize.embedding.weight")]),
    (
        FaceRestorer,
        RestoreFormer,
        &[Has("quantize.embedding.weight"), Has("encoder.down.0.block.0.norm1."), Has("decoder.mid.attn_1.norm1.")],
    ),
    (FaceRestorer, RestoreFormer, &[Has("vqvae.quantize.embedding.weight")]),
    (Inpainter, LaMa, &[Has("model.1.bn_l.running_mean")]),
    (Inpainter, Mat, &[Has("synthesis.first_stage.conv_first.")]),
    (Upscaler, Esrgan, &[Has("model.0.weight"), Has("model.1.sub.0.RDB1.")]),
    (Upscaler, Esrgan, &[Has("RRDB_trunk.0.RDB1.")]),
    (Upscaler, RealEsrgan, &[Has("conv_first."), Has("body.0.rdb1.")]),
    (Upscaler, Dat, &[Has("before_RG.1."), Has("layers.0.blocks.0.attn.spatial_interaction.")]),
    (Upscaler, Dat, &[Has("conv_first."), Has("layers.0.blocks.0.ffn.sg.")]),
    (Upscaler, Rgt, &[Has("before_RG.1."), Has("layers.0.blocks.0.gamma")]),
    (Upscaler, Atd, &[Has("conv_first."), Has("layers.0.residual_group.td")]),
    (Upscaler, Hat, &[Has("conv_first."), Has("layers.0.residual_group.blocks.0.conv_block.")]),
    (Upscaler, Drct, &[Has("conv_first."), Has("layers.0.swin1.")]),
    (Upscaler, Grl, &[Has("conv_first."), Has("layers.0.blocks.0.attn.window_attn.")]),
    (Upscaler, Craft, &[Has("conv_first."), Has("layers.0.residual_group.hf_blocks.")]),
    (Upscaler, SrFormer, &[Has("layers.0.residual_group.blocks.0.attn.aligned_relative_position_index")]),
    (Upscaler, Swin2Sr, &[Has("layers.0.residual_group.blocks.0.attn.logit_scale"), Has("conv_first.")]),
    (Upscaler, SwinIr, &[Has("layers.0.residual_group.blocks.0."), Has("conv_first.")]),
    (Upscaler, Span, &[Has("block_1.c1_r."), Has("conv_1.")]),
    (Upscaler, OmniSr, &[Has("residual_layer.0.residual_layer.0.layer.0.fn.0.")]),
    (Upscaler, Plksr, &[Has("feats.0."), Has("feats.1.lk.")]),
    (Upscaler, Plksr, &[Has("feats.0."), Has("feats.1.channel_mixer.")]),
    (Upscaler, Safmn, &[Has("to_feat."), Within("safm.mfr.0.")]),
    (Upscaler, Ditn, &[Has("UFONE.0.ITLs.")]),
    (Upscaler, MoSr, &[Has("gblocks.0."), Has("gblocks.1.fc1.")]),
    (Upscaler, AuraSr, &[Has("mid_block2.block1.proj.weights")]),
    (Upscaler, RealCugan, &[Has("unet1.conv1_down."), Has("unet2.conv1_down.")]),
    (Upscaler, Rcan, &[Has("body.0.body.0.body.3.conv_du.")]),
    (Restorer, ScuNet, &[Has("m_head.0."), Has("m_tail.0.")]),
    (Restorer, Fbcnn, &[Has("m_head."), Has("qf_pred.0.")]),
    (Restorer, DrUnet, &[Has("m_head."), Has("m_down1.0.res.0."), Has("m_tail.")]),
    (Restorer, NafNet, &[Has("intro."), Has("middle_blks.0."), Has("ending.")]),
    (Restorer, Restormer, &[Has("encoder_level1.0.attn.qkv_dwconv."), Has("patch_embed.proj.")]),
    (Restorer, DdColor, &[Has("refine_net.0.0."), Has("encoder.arch.")]),
    (FrameInterpolator, Rife, &[Has("block0.conv0.0.0."), Has("block1.conv0.0.0.")]),
    (FrameInterpolator, Rife, &[Has("block0.conv0.0."), Has("block0.convblock")]),
    (Upscaler, Compact, &[Start("body.0.weight"), Start("body.1.weight"), Start("body.2.weight")]),
    (Upscaler, Compact, &[End("module.body.0.weight"), End("module.body.1.weight"), End("module.body.2.weight")]),
];
