// What the kernels need of the machine: sixteen-byte copies to shared memory, matrix fragments, products of them.
//
// Under TRINART_EMULATION the same names come from a program that plays the card on a CPU
// (tests/emulation/emulation.h), so that everything but the bodies below is tested without one.
#pragma once

#ifdef TRINART_EMULATION
#include "emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

typedef __half half_type;
typedef __nv_bfloat16 bfloat_type;

// A kernel by name: it takes one structure, `p`.
#define KERNEL(name, threads, Params, call) \
    extern "C" __global__ void __launch_bounds__(threads) name(const Params p) { call; }
#define DEVICE static __device__ __forceinline__
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(half_type x) { return __half2float(x); }
DEVICE float to_float(bfloat_type x) { return __bfloat162float(x); }
// As the type of the first argument, whose value does not matter.
DEVICE float convert(float, float x) { return x; }
DEVICE half_type convert(half_type, float x) { return __float2half_rn(x); }
DEVICE bfloat_type convert(bfloat_type, float x) { return __float2bfloat16_rn(x); }

// Two values as the halves of a word, the first in the lower one.
DEVICE uint32_t pack(half_type, float a, float b) {
    __half2 both = __floats2half2_rn(a, b);
    return *reinterpret_cast<uint32_t*>(&both);
}
DEVICE uint32_t pack(bfloat_type, float a, float b) {
    __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<uint32_t*>(&both);
}

DEVICE uint32_t shared_address(const void* shared) { return (uint32_t)__cvta_generic_to_shared(shared); }

// Sixteen bytes on their way to shared memory; zeros where `valid` is false, and nothing is read then.
DEVICE void copy16(void* shared, const void* global, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global), "r"(bytes));
}
// The copies since the last call are one group.
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n"); }
// Until at most N groups are under way.
template <int N> DEVICE void wait_for_copies() { asm volatile("cp.async.wait_group %0;\n" ::"n"(N)); }

// Four matrices of 8 rows of 16 bytes. Lane i gives the address of row i % 8 of matrix i / 8, and gets of each matrix
// the word at row i / 4, column i % 4.
DEVICE void load_matrices(uint32_t (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared)));
}
// The same, each matrix of 8x8 half words transposed.
DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared)));
}

// c += a * b in f32: a has 16 rows, b 8 columns, both 32 bytes deep (16 half words, 8 words).
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

// In f32, TF32 has 10 bits of 23: each factor is taken as the sum of two of them, and of the four products the smallest
// is left out. What is lost is below a rounding of the sum.
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

// Eight values in a row, sixteen bytes or thirty-two, which is how images and tokens are read and written.
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
