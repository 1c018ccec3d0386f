#!/usr/bin/env python3
"""Make static libraries libcuda.a, libcublas.a, ... that load the real CUDA libraries at the first call.

    python3 lazy_libraries.py CUDARC_SOURCE FOLDER

With FOLDER in the linker's search path, the libraries that candle requests (`-lcuda -lcublas ...`) come from there, so the
program starts without any CUDA library. If a library or a function is missing, a call returns the library's own error code
for "not available". Covers the functions that cudarc declares. For x86-64 Linux.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

src, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
LIBS = {  # module of cudarc -> (library, candidate file names, error code if none can be loaded)
    "driver":   ("cuda",     ["libcuda.so.1"], 34),        # CUDA_ERROR_STUB_LIBRARY
    "nvrtc":    ("nvrtc",    ["libnvrtc.so.13", "libnvrtc.so"], 11),     # NVRTC_ERROR_INTERNAL_ERROR
    "curand":   ("curand",   ["libcurand.so.10", "libcurand.so"], 203),  # CURAND_STATUS_INITIALIZATION_FAILED
    "cublas":   ("cublas",   ["libcublas.so.13", "libcublas.so"], 1),    # CUBLAS_STATUS_NOT_INITIALIZED
    "cublaslt": ("cublasLt", ["libcublasLt.so.13", "libcublasLt.so"], 1),
    "cudnn":    ("cudnn",    ["libcudnn.so.9", "libcudnn.so"], 1001),    # CUDNN_STATUS_NOT_INITIALIZED
}
C = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <pthread.h>
static const char *const sonames[] = { %(sonames)s, NULL };
extern const char *const lazy_%(lib)s_names[] __attribute__((visibility("hidden")));
extern void *lazy_%(lib)s_slots[] __attribute__((visibility("hidden")));
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *handle;
static void load(void) { for (int i = 0; sonames[i] && !handle; i++) handle = dlopen(sonames[i], RTLD_NOW | RTLD_GLOBAL); }
static long missing(void) { return %(code)d; }
/* Called by the trampolines with all argument registers saved. Returns the address to jump to. */
__attribute__((visibility("hidden"))) void *lazy_%(lib)s_resolve(long i) {
  pthread_once(&once, load);
  void *p = handle ? dlsym(handle, lazy_%(lib)s_names[i]) : NULL;
  if (!p) p = (void *)missing;
  __atomic_store_n(&lazy_%(lib)s_slots[i], p, __ATOMIC_RELEASE);
  return p;
}
const char *const lazy_%(lib)s_names[] = { %(names)s };
'''
ASM_HEAD = '''
  .text
  .hidden lazy_%(lib)s_common
  .type lazy_%(lib)s_common,@function
lazy_%(lib)s_common:              # r11 = index; saves the argument registers of the System V ABI
  pushq %%rbp
  movq %%rsp, %%rbp
  pushq %%rdi
  pushq %%rsi
  pushq %%rdx
  pushq %%rcx
  pushq %%r8
  pushq %%r9
  pushq %%rax
  pushq %%r11
  andq $-16, %%rsp
  subq $128, %%rsp
  movups %%xmm0, 0(%%rsp)
  movups %%xmm1, 16(%%rsp)
  movups %%xmm2, 32(%%rsp)
  movups %%xmm3, 48(%%rsp)
  movups %%xmm4, 64(%%rsp)
  movups %%xmm5, 80(%%rsp)
  movups %%xmm6, 96(%%rsp)
  movups %%xmm7, 112(%%rsp)
  movq %%r11, %%rdi
  call lazy_%(lib)s_resolve
  movq %%rax, %%r11
  movups 0(%%rsp), %%xmm0
  movups 16(%%rsp), %%xmm1
  movups 32(%%rsp), %%xmm2
  movups 48(%%rsp), %%xmm3
  movups 64(%%rsp), %%xmm4
  movups 80(%%rsp), %%xmm5
  movups 96(%%rsp), %%xmm6
  movups 112(%%rsp), %%xmm7
  movq -8(%%rbp), %%rdi
  movq -16(%%rbp), %%rsi
  movq -24(%%rbp), %%rdx
  movq -32(%%rbp), %%rcx
  movq -40(%%rbp), %%r8
  movq -48(%%rbp), %%r9
  movq -56(%%rbp), %%rax
  movq %%rbp, %%rsp
  popq %%rbp
  jmp *%%r11
  .size lazy_%(lib)s_common, .-lazy_%(lib)s_common
'''
for mod, (lib, sonames, code) in LIBS.items():
    text = (src / "src" / mod / "sys" / "mod.rs").read_text()
    names = set()
    for block in re.findall(r'extern "C" \{(.*?)\n\s*\}', text, re.S):
        names.update(re.findall(r'\bfn (\w+)\s*\(', block))
    names = sorted(names)
    asm = ASM_HEAD % {"lib": lib}
    for i, n in enumerate(names):
        asm += (f"  .globl {n}\n  .type {n},@function\n{n}:\n  movq lazy_{lib}_slots+{8*i}(%rip), %r11\n  testq %r11, %r11\n"
                f"  je 1f\n  jmp *%r11\n1: movl ${i}, %r11d\n  jmp lazy_{lib}_common\n  .size {n}, .-{n}\n")
    asm += f"  .bss\n  .balign 8\n  .globl lazy_{lib}_slots\n  .hidden lazy_{lib}_slots\nlazy_{lib}_slots: .zero {8*len(names)}\n  .section .note.GNU-stack,\"\",@progbits\n"
    with tempfile.TemporaryDirectory() as t:
        t = pathlib.Path(t)
        (t / "r.c").write_text(C % {"lib": lib, "code": code, "sonames": ", ".join(f'"{s}"' for s in sonames),
                                    "names": ", ".join(f'"{n}"' for n in names)})
        (t / "t.s").write_text(asm)
        subprocess.check_call(["gcc", "-O2", "-fPIC", "-c", "-o", t / "r.o", t / "r.c"])
        subprocess.check_call(["gcc", "-c", "-o", t / "t.o", t / "t.s"])
        # One object, so that the linker always takes both members together.
        subprocess.check_call(["ld", "-r", "-o", t / f"lazy_{lib}.o", t / "r.o", t / "t.o"])
        a = out / f"lib{lib}.a"
        a.unlink(missing_ok=True)
        subprocess.check_call(["ar", "rcs", a, t / f"lazy_{lib}.o"])
    print(f"{a} symbols={len(names)} bytes={a.stat().st_size}")
