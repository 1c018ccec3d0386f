use serde::Serialize;

/// A fact about a plan that the user should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Notice {
    /// The kind of notice, for scripts.
    pub code: NoticeCode,
    /// The notice in words.
    pub text: String,
}

impl Notice {
    /// A notice with this code and text.
    pub fn new(code: NoticeCode, text: impl Into<String>) -> Self {
        Notice { code, text: text.into() }
    }
}

/// The kinds of notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoticeCode {
    /// Tensors of no known component were kept.
    UnknownKept,
    /// Tensors were dropped because folders have no place for them.
    NotInFolders,
    /// Some tensors of the input were selected by their names.
    Selected,
    /// Tensors were renamed by patterns.
    Renamed,
    /// The scale of a LoRA is assumed.
    LoraScaleAssumed,
    /// The number of frames of a video is assumed.
    FramesAssumed,
    /// The activation of an image encoder is assumed.
    ActivationAssumed,
    /// The encoder of a video model is in the output twice: for the first frame, and for videos.
    EncoderTwice,
    /// What the UNet predicts is assumed.
    PredictionAssumed,
    /// Programs that read the output will not see what the UNet predicts.
    PredictionNotRead,
    /// Marks of what the UNet predicts, or of the VAE's constants, contradict each other.
    MarksContradict,
    /// The constants of the VAE are assumed.
    VaeConstantsAssumed,
    /// Programs that read the output will not see the constants of the VAE.
    VaeConstantsNotRead,
    /// Programs that read the output will not see a configuration of the folder.
    ConfigurationNotRead,
    /// The configuration beside the input was not carried over.
    YamlNotCarried,
    /// A file beside the input was not carried over.
    SidecarNotCarried,
    /// The checkpoint had no VAE, and one was inserted.
    VaeInserted,
    /// Tensors of the checkpoint's own VAE were kept.
    OwnVaeKept,
    /// The checkpoint had a VAE that WebUI does not load, and it was replaced.
    OldVaeBroken,
    /// The VAE is of another family than the checkpoint.
    VaeFamilyMismatch,
    /// Whether the VAE is of the checkpoint's family is unknown.
    VaeFamilyUnknown,
    /// Other files beside the checkpoint could be its VAE as well.
    OtherVaesBeside,
    /// Keys in diffusers names became LDM keys.
    DiffusersNames,
    /// position_ids were replaced by correct ones.
    PositionIdsFixed,
    /// Missing position_ids were added.
    PositionIdsAdded,
    /// Tensors that published models have are missing.
    Incomplete,
    /// The extension of the output means another format than the requested one.
    FormatContradictsExtension,
    /// A hash in the metadata does not match the output, and was left out.
    StaleHash,
    /// Tensors have NaN or infinite values.
    NonFinite,
    /// Pruning kept a file of unknown architecture whole.
    NotPruned,
    /// EMA weights were kept when pruning, because the weights that they average are missing.
    EmaKept,
    /// The output format has no place for the metadata.
    MetadataDropped,
    /// A metadata field that was to be dropped does not exist.
    MetadataAbsent,
    /// Quantized weights were dequantized to a dtype that was not requested.
    Dequantized,
    /// position_ids are wrong, and stay so.
    PositionIdsWrong,
    /// A dtype was requested for a component that the input lacks.
    DtypeWithoutComponent,
    /// The new UNet predicts something else than the one it replaces.
    PredictionChanged,
    /// Tensors that a component of a file should have are missing from it, and the checkpoint's own were kept. Rendering
    /// does not use them.
    OwnPartKept,
    /// A part of a pipeline was dropped: the folder lacks it, or the output has no place for it.
    PipelinePartDropped,
    /// A part of a pipeline was copied as it is, although a cast was requested.
    PipelinePartKept,
}
