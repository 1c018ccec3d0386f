// The kernels by name, with the number of threads of a block. The files that launch them choose the grid and the shared
// memory: ../convolution.rs, ../attention.rs, ../norm.rs, ../pointwise.rs.
#include "attention.cuh"
#include "convolve.cuh"
#include "normalize.cuh"
#include "pointwise.cuh"

#define KERNELS_OF_DTYPE(suffix, T)                                                              \
    KERNEL(convolve_128x128_##suffix, 128, Convolution, (convolve<T, 128, 128, 2, 2, 3>(p)))     \
    KERNEL(convolve_128x64_##suffix, 128, Convolution, (convolve<T, 128, 64, 2, 2, 3>(p)))       \
    KERNEL(convolve_64x64_##suffix, 128, Convolution, (convolve<T, 64, 64, 2, 2, 4>(p)))         \
    KERNEL(sum_splits_##suffix, 256, Convolution, sum_splits<T>(p))                              \
    KERNEL(attend_16_##suffix, 128, Attention, (attend<T, 16, 64>(p)))                           \
    KERNEL(attend_48_##suffix, 128, Attention, (attend<T, 48, 64>(p)))                           \
    KERNEL(attend_64_##suffix, 128, Attention, (attend<T, 64, 64>(p)))                           \
    KERNEL(attend_80_##suffix, 128, Attention, (attend<T, 80, 128 / sizeof(T)>(p)))              \
    KERNEL(attend_160_##suffix, 128, Attention, (attend<T, 160, 64 / sizeof(T)>(p)))             \
    KERNEL(softmax_##suffix, 256, Softmax, softmax<T>(p))                                        \
    KERNEL(group_moments_##suffix, 256, GroupNorm, group_moments<T>(p))                          \
    KERNEL(group_apply_##suffix, 256, GroupNorm, group_apply<T>(p))                              \
    KERNEL(layer_norm_##suffix, 256, LayerNorm, layer_norm<T>(p))                                \
    KERNEL(gated_gelu_##suffix, 256, Gate, gated_gelu<T>(p))                                     \
    KERNEL(sigmoid_gate_##suffix, 256, Activation, sigmoid_gate<T>(p))                           \
    KERNEL(gelu_##suffix, 256, Activation, gelu<T>(p))                                           \
    KERNEL(concat_channels_##suffix, 256, ConcatChannels, concat_channels<T>(p))                 \
    KERNEL(embed_##suffix, 256, Embed, embed<T>(p))                                              \
    KERNEL(to_pixels_##suffix, 256, Planes, to_pixels<T>(p))                                     \
    KERNEL(to_planes_##suffix, 256, Planes, to_planes<T>(p))                                     \
    KERNEL(arrange_f32_##suffix, 256, Arrange, (arrange<float, T>(p)))                           \
    KERNEL(arrange_f16_##suffix, 256, Arrange, (arrange<half_type, T>(p)))                       \
    KERNEL(arrange_bf16_##suffix, 256, Arrange, (arrange<bfloat_type, T>(p)))

KERNELS_OF_DTYPE(f16, half_type)
KERNELS_OF_DTYPE(bf16, bfloat_type)
KERNELS_OF_DTYPE(f32, float)

KERNEL(group_affine, 256, GroupNorm, affine_of_groups(p))
