//! The methods that operations which write a checkpoint have in common.

/// Adds to an operation with a field `output` the methods that all writing operations have.
macro_rules! output_methods {
    ($operation:ident, $reads:literal) => {
        $crate::ops::run_methods::run_methods!($operation, output.jobs, output.progress);

        impl<'a> $operation<'a> {
            /// Casts the floating-point tensors of the whole output to `dtype`. By default each tensor keeps its dtype.
            #[must_use]
            pub fn dtype(mut self, dtype: trinart_ckpt_formats::tensor::Dtype) -> Self {
                self.output.dtype = Some(dtype);
                self
            }

            /// Clamps values that overflow a new dtype to its largest value. By default such a value is an error.
            #[must_use]
            pub fn saturate(mut self, saturate: bool) -> Self {
                use trinart_ckpt_formats::tensor::Overflow;
                self.output.overflow = if saturate { Overflow::Saturate } else { Overflow::Refuse };
                self
            }

            /// Sets the output format. By default the extension of the output decides.
            #[must_use]
            pub fn format(mut self, format: trinart_ckpt_formats::containers::Target) -> Self {
                self.output.format = Some(format);
                self
            }

            /// Replaces an existing output. By default an existing output is an error.
            #[must_use]
            pub fn overwrite(mut self, overwrite: bool) -> Self {
                self.output.overwrite = trinart_ckpt_formats::io::Overwrite::allowed(overwrite);
                self
            }

            /// Keeps a line of printable ASCII with an output at an address, as [`Destination::record`] asks for. It has no
            /// effect on files.
            ///
            /// [`Destination::record`]: crate::ops::Destination::record
            #[must_use]
            pub fn record(mut self, record: Option<&str>) -> Self {
                self.output.record = record.map(str::to_owned);
                self
            }

            /// Creates the folders above the output that are missing. By default a missing folder is an error.
            #[must_use]
            pub fn create_folders(mut self, create: bool) -> Self {
                self.output.create_folders = create;
                self
            }

            /// Reads the output back and compares it with the plan. On by default.
            #[must_use]
            pub fn verify(mut self, verify: bool) -> Self {
                self.output.verify = verify;
                self
            }

            /// Makes NaN and infinite values an error. By default the report lists the tensors that have some.
            #[must_use]
            pub fn strict(mut self, strict: bool) -> Self {
                self.output.strict = strict;
                self
            }

            /// Leaves out tensors that the output has no place for. By default such a tensor is an error.
            #[must_use]
            pub fn allow_loss(mut self, allow: bool) -> Self {
                self.output.allow_loss = allow;
                self
            }

            /// Records that the UNet predicts this: in the marks and the metadata of a file, in the `.yaml` beside it, or in
            /// the configuration of a folder. By default the output records what the checkpoint does.
            #[must_use]
            pub fn prediction(mut self, prediction: trinart_ckpt_models::family::Prediction) -> Self {
                self.output.prediction = Some(prediction);
                self
            }

            /// Sets a metadata field of the output.
            #[must_use]
            pub fn set_metadata(mut self, field: impl Into<String>, value: impl Into<String>) -> Self {
                self.output.metadata.set.push((field.into(), value.into()));
                self
            }

            /// Drops a metadata field; with `*` at its end, all fields that begin so. Fields are dropped before others are
            /// set.
            #[must_use]
            pub fn drop_metadata(mut self, field: impl Into<String>) -> Self {
                self.output.metadata.drop.push(field.into());
                self
            }

            /// Sets how a diffusers folder is written.
            #[must_use]
            pub fn folder(mut self, options: $crate::ops::FolderOptions) -> Self {
                self.output.folder = options;
                self
            }

            /// Reports what [`Self::write`] would do, tensor by tensor, and writes nothing.
            ///
            #[doc = $reads]
            ///
            /// Fails where `write` would fail, except for errors that depend on the tensors' values or on the disk.
            pub fn plan(&self, output: impl AsRef<std::path::Path>) -> $crate::Result<$crate::report::WriteReport> {
                self.run(output.as_ref(), $crate::ops::output::Mode::Plan)
            }

            /// Writes the output atomically: after an error, `output` is what it was before.
            pub fn write(&self, output: impl AsRef<std::path::Path>) -> $crate::Result<$crate::report::WriteReport> {
                self.run(output.as_ref(), $crate::ops::output::Mode::Write)
            }
        }
    };
}
pub(super) use output_methods;
