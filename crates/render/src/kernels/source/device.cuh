// The device primitives of the kernels: asynchronous copies to shared memory, matrix fragments and their products.
//
// With TRINART_EMULATION, emulation.h (in tests/emulation) defines the same names for the CPU. The emulation tests
// everything except the function bodies in the #else branch below, which have never run on a GPU.
#pragma once

#ifdef TRINART_EMULATION
#include "emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

typedef __half half_type;
typedef __nv_bfloat16 bfloat_type;

// Defines a kernel `name` whose only parameter is the structure `p`.
#define KERNEL(name, threads, Params, call) \
    extern "C" __global__ void __launch_bounds__(threads) name(const Params p) { call; }
#define DEVICE static __device__ __forceinline__
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(half_type x) { return __half2float(x); }
DEVICE float to_float(bfloat_type x) { return __bfloat162float(x); }
// Converts to the type of the first argument, whose value is ignored.
DEVICE float convert(float, float x) { return x; }
DEVICE half_type convert(half_type, float x) { return __float2half_rn(x); }
DEVICE bfloat_type convert(bfloat_type, float x) { return __float2bfloat16_rn(x); }

// Packs two values into a word, the first one in the low half.
DEVICE uint32_t pack(half_type, float a, float b) {
    __half2 both = __floats2half2_rn(a, b);
    return *reinterpret_cast<uint32_t*>(&both);
}
DEVICE uint32_t pack(bfloat_type, float a, float b) {
    __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<uint32_t*>(&both);
}

DEVICE uint32_t shared_address(const void* shared) { return (uint32_t)__cvta_generic_to_shared(shared); }

// Starts an asynchronous copy of 16 bytes to shared memory. Writes zeros and reads nothing if `valid` is false.
DEVICE void copy16(void* shared, const void* global, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global), "r"(bytes));
}
// Groups the copies since the last call.
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n"); }
// Waits until at most N groups are pending.
template <int N> DEVICE void wait_for_copies() { asm volatile("cp.async.wait_group %0;\n" ::"n"(N)); }

// Loads four matrices of 8 rows of 16 bytes. Lane i passes the address of row i % 8 of matrix i / 8, and receives the word
// at row i / 4 and column i % 4 of each matrix.
DEVICE void load_matrices(uint32_t (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared)));
}
// Like load_matrices, with each matrix transposed as 8x8 half words.
DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared)));
}

// c += a * b in F32. a has 16 rows, b has 8 columns, and both have a depth of 32 bytes (16 half words or 8 words).
DEVICE void product(half_type, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void product(bfloat_type, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE uint32_t to_tf32(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
    return bits;
}
DEVICE void product_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t as_bits(float x) { return __float_as_uint(x); }

DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
#endif

// An F32 product from TF32, which has 10 of the 23 mantissa bits. Each factor is the sum of two TF32 values. The
// smallest of the four products is omitted, because it is below the rounding error of the sum.
DEVICE void product(float, float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
    uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a_high[i] = to_tf32(as_float(a[i]));
        a_low[i] = to_tf32(as_float(a[i]) - as_float(a_high[i]));
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        b_high[i] = to_tf32(as_float(b[i]));
        b_low[i] = to_tf32(as_float(b[i]) - as_float(b_high[i]));
    }
    product_tf32(c, a_low, b_high);
    product_tf32(c, a_high, b_low);
    product_tf32(c, a_high, b_high);
}

template <typename T> DEVICE T from_float(float x) { return convert(T(), x); }

// Kernels load and store images and tokens in units of eight values, which are 16 or 32 bytes.
template <typename T> DEVICE void load_eight(float (&to)[8], const T* from) {
    uint4 words[sizeof(T) / 2];
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; i++) words[i] = reinterpret_cast<const uint4*>(from)[i];
    const T* values = reinterpret_cast<const T*>(words);
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = to_float(values[i]);
}

template <typename T> DEVICE void store_eight(T* to, const float (&from)[8]) {
    uint4 words[sizeof(T) / 2];
    T* values = reinterpret_cast<T*>(words);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = from_float<T>(from[i]);
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; i++) reinterpret_cast<uint4*>(to)[i] = words[i];
}
