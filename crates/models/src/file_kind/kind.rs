use super::named::named;

named! {
    /// The role of a file: what programs use it for, whatever model it belongs to.
    FileKind {
        Checkpoint "checkpoint" "Stable Diffusion checkpoint",
        OtherCheckpoint "checkpoint-other" "checkpoint",
        Unet "unet" "UNet",
        DiffusionModel "diffusion-model" "diffusion model",
        Vae "vae" "VAE",
        OtherVae "vae-other" "VAE",
        Taesd "taesd" "tiny autoencoder (TAESD)",
        VaeApprox "vae-approx" "approximate VAE decoder for previews",
        ClipL "clip-l" "CLIP ViT-L text encoder",
        ClipH "clip-h" "OpenCLIP ViT-H text encoder",
        ClipG "clip-g" "OpenCLIP ViT-bigG text encoder",
        Clip "clip" "CLIP text encoder",
        ClipBoth "clip-text-and-image" "CLIP with its text and image encoders",
        ClipVision "clip-vision" "CLIP image encoder",
        T5 "t5" "T5 text encoder",
        LanguageModel "language-model" "language model",
        TextEncoder "text-encoder" "text encoder",
        Parts "checkpoint-parts" "parts of a checkpoint",
        VisionModel "vision-model" "image encoder",
        LoraKohya "lora-kohya" "LoRA (kohya)",
        LoraPeft "lora-peft" "LoRA (PEFT)",
        LoraDiffusers "lora-diffusers" "LoRA (old diffusers)",
        LoraHeads "lora-xflux" "LoRA (x-flux)",
        Loha "loha" "LoHa (LyCORIS)",
        Lokr "lokr" "LoKr (LyCORIS)",
        Oft "oft" "OFT (LyCORIS)",
        Boft "boft" "BOFT (LyCORIS)",
        Ia3 "ia3" "IA3 (LyCORIS)",
        Glora "glora" "GLoRA (LyCORIS)",
        TLora "t-lora" "T-LoRA (LyCORIS)",
        FullDiff "full-diff" "full difference (LyCORIS)",
        Dora "dora" "DoRA",
        MotionLora "motion-lora" "AnimateDiff motion LoRA",
        ControlNet "controlnet" "ControlNet",
        ControlNetUnion "controlnet-union" "ControlNet union",
        ControlLora "control-lora" "Control-LoRA",
        ControlNetLllite "controlnet-lllite" "ControlNet-LLLite",
        T2iAdapter "t2i-adapter" "T2I-Adapter",
        IpAdapter "ip-adapter" "IP-Adapter",
        InstantId "instantid" "InstantID adapter",
        StyleModel "style-model" "style model",
        PhotoMaker "photomaker" "PhotoMaker",
        PuLid "pulid" "PuLID",
        BrushNet "brushnet" "BrushNet",
        LayerDiffuse "layerdiffuse" "LayerDiffuse",
        Ella "ella" "ELLA",
        InpaintHead "inpaint-head" "inpainting head (Fooocus)",
        Gligen "gligen" "GLIGEN",
        TextualInversion "textual-inversion" "textual inversion",
        Hypernetwork "hypernetwork" "hypernetwork",
        Upscaler "upscaler" "upscaler",
        LatentUpscaler "latent-upscaler" "latent upscaler",
        Latent "latent" "latent image",
        FaceRestorer "face-restorer" "face restorer",
        Restorer "restorer" "image restorer",
        Inpainter "inpainter" "inpainting model",
        MotionModule "motion-module" "AnimateDiff motion module",
        SafetyChecker "safety-checker" "safety checker",
        AestheticPredictor "aesthetic-predictor" "aesthetic predictor",
        SegmentAnything "segment-anything" "Segment Anything model",
        Detector "detector" "object detector",
        Captioner "captioner" "image captioner",
        Tagger "tagger" "image tagger",
        Segmenter "segmenter" "segmentation model",
        DepthEstimator "depth-estimator" "depth estimator",
        Preprocessor "preprocessor" "ControlNet preprocessor",
        FrameInterpolator "frame-interpolator" "frame interpolator",
        Optimizer "optimizer" "optimizer state of a training",
        Empty "empty" "no tensors",
        Unknown "unknown" "unknown",
    }
}

impl FileKind {
    /// Returns whether the file adapts another network: it is of no use alone.
    pub fn is_adapter(self) -> bool {
        use FileKind::*;
        matches!(
            self,
            LoraKohya
                | LoraPeft
                | LoraDiffusers
                | LoraHeads
                | Loha
                | Lokr
                | Oft
                | Boft
                | Ia3
                | Glora
                | TLora
                | FullDiff
                | Dora
        )
    }

    /// Returns whether the file is a text encoder.
    pub fn is_text_encoder(self) -> bool {
        use FileKind::*;
        matches!(self, ClipL | ClipH | ClipG | Clip | ClipBoth | T5 | LanguageModel | TextEncoder)
    }
}
