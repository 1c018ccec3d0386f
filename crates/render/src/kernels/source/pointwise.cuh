// Element-wise kernels: activations, casts, layout changes, concatenation and embedding.
#pragma once
#include "device.cuh"

#define FOR_EACH(index, count)                                                              \
    for (long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x; index < (count); \
         index += (long long)gridDim.x * blockDim.x)

// `value * gelu(gate)` with the exact GELU. The first half of each row holds the values, the second half the gates.
struct Gate {
    const void* x; // [rows][2 * width]
    void* out;     // [rows][width]
    int rows, width;
};

template <typename T> DEVICE void gated_gelu(const Gate& p) {
    FOR_EACH(index, (long long)p.rows * p.width / 8) {
        long long row = index * 8 / p.width, column = index * 8 % p.width;
        const T* x = (const T*)p.x + row * 2 * p.width + column;
        float values[8], gates[8];
        load_eight(values, x);
        load_eight(gates, x + p.width);
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] *= 0.5f * gates[e] * (1.0f + erff(gates[e] * 0.70710678f));
        store_eight((T*)p.out + index * 8, values);
    }
}

// An activation of each value.
struct Activation {
    const void* x;
    void* out;
    long long count;
    float scale;
};

// `x * sigmoid(scale * x)`: SiLU for a scale of 1, CLIP's approximation of GELU for a scale of 1.702.
template <typename T> DEVICE void sigmoid_gate(const Activation& p) {
    FOR_EACH(index, p.count / 8) {
        float values[8];
        load_eight(values, (const T*)p.x + 8 * index);
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] /= 1.0f + expf(-p.scale * values[e]);
        store_eight((T*)p.out + 8 * index, values);
    }
}

// The exact GELU.
template <typename T> DEVICE void gelu(const Activation& p) {
    FOR_EACH(index, p.count / 8) {
        float values[8];
        load_eight(values, (const T*)p.x + 8 * index);
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] *= 0.5f * (1.0f + erff(values[e] * 0.70710678f));
        store_eight((T*)p.out + 8 * index, values);
    }
}

// Concatenates the channels of two images. Crops the first image if it is larger.
struct ConcatChannels {
    const void* a; // [batch][a_rows][a_columns][a_width]
    const void* b; // [batch][rows][columns][b_width]
    void* out;
    int batch, rows, columns, a_rows, a_columns;
    int a_width, b_width;
};

template <typename T> DEVICE void concat_channels(const ConcatChannels& p) {
    const int width = p.a_width + p.b_width;
    FOR_EACH(index, (long long)p.batch * p.rows * p.columns * width / 8) {
        long long pixel = index * 8 / width;
        int channel = (int)(index * 8 % width);
        long long image = pixel / p.columns / p.rows, row = pixel / p.columns % p.rows, column = pixel % p.columns;
        long long a_pixel = (image * p.a_rows + row) * p.a_columns + column;
        const T* from = channel < p.a_width ? (const T*)p.a + a_pixel * p.a_width + channel
                                            : (const T*)p.b + pixel * p.b_width + channel - p.a_width;
        float values[8];
        load_eight(values, from);
        store_eight((T*)p.out + index * 8, values);
    }
}

// The embedding of each token plus the embedding of its position.
struct Embed {
    const unsigned* tokens; // [rows]
    const void* table;      // [vocabulary][width]
    const void* positions;  // [period][width]
    void* out;
    int rows, period, width;
};

template <typename T> DEVICE void embed(const Embed& p) {
    FOR_EACH(index, (long long)p.rows * p.width / 8) {
        long long row = index * 8 / p.width, column = index * 8 % p.width;
        float values[8], summands[8];
        load_eight(values, (const T*)p.table + (long long)p.tokens[row] * p.width + column);
        load_eight(summands, (const T*)p.positions + row % p.period * p.width + column);
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] += summands[e];
        store_eight((T*)p.out + index * 8, values);
    }
}

// Converts between F32 planes [batch][channel][pixel] and pixels [batch][pixel][padded channel].
struct Planes {
    const void* from;
    void* to;
    int batch, channels, pixels, padded;
};

template <typename T> DEVICE void to_pixels(const Planes& p) {
    FOR_EACH(index, (long long)p.batch * p.pixels * p.padded) {
        int channel = (int)(index % p.padded);
        long long pixel = index / p.padded % p.pixels, image = index / p.padded / p.pixels;
        const float* from = (const float*)p.from + (image * p.channels + channel) * p.pixels + pixel;
        ((T*)p.to)[index] = from_float<T>(channel < p.channels ? *from : 0.0f);
    }
}

template <typename T> DEVICE void to_planes(const Planes& p) {
    FOR_EACH(index, (long long)p.batch * p.channels * p.pixels) {
        long long pixel = index % p.pixels, channel = index / p.pixels % p.channels;
        long long image = index / p.pixels / p.channels;
        ((float*)p.to)[index] = to_float(((const T*)p.from)[(image * p.pixels + pixel) * p.padded + channel]);
    }
}

// Converts a weight [out][in][taps] to [padded out][taps][padded in] and to another dtype, padded with zeros. With one tap
// this is a cast with padding; with one output it is a transposition.
struct Arrange {
    const void* from;
    void* to;
    int out, in, taps, padded_out, padded_in;
};

template <typename From, typename To> DEVICE void arrange(const Arrange& p) {
    FOR_EACH(index, (long long)p.padded_out * p.taps * p.padded_in) {
        int in = (int)(index % p.padded_in), tap = (int)(index / p.padded_in % p.taps);
        long long out = index / p.padded_in / p.taps;
        bool inside = in < p.in && out < p.out;
        const From* from = (const From*)p.from + (out * p.in + in) * p.taps + tap;
        ((To*)p.to)[index] = from_float<To>(inside ? to_float(*from) : 0.0f);
    }
}
