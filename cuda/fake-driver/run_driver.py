#!/usr/bin/env python3
"""Test a program with the feature `cuda` on a fake CUDA driver, without a GPU.

    cuda/fake-driver/run_driver.py target/release/trinart-ckpt [CASE..]

Builds the fake driver (driver*.cpp) and the kernels with the system's C++ compiler, as the libraries that the program
loads: libcuda.so.1, libcublas.so.13 and libcurand.so.10. The program has to load them by these names at the first call,
as cuda/setup_nvcc.sh links it. This tests the program's own host code: uploads, launches, recorded steps, the lifetime
of memory, and error messages. It does not test whether a GPU and NVIDIA's driver behave like the fake driver.

Prints one line for each case, and exits with 1 if a case failed. Requires Python 3.8 and a C++ compiler; takes about ten
minutes on two cores. The gate does not run it.

Environment variables of the driver, for manual runs (with the prefix FAKE_CUDA_):

    REPORT=1             print the number of launches and the peak memory at exit
    MEMORY=bytes         device memory
    DEVICES=0            no GPU
    CAPABILITY=75        compute capability 7.5
    MULTIPROCESSORS=132  number of multiprocessors
    MODE=3               copies to shared memory arrive late, and the last warp runs first
    FAIL=function=code, function@3=code, function~3=code
                         fail each call, the third call, or the third call during a capture; separated by commas
"""
import array
import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
EMULATION = ROOT / "crates/render/tests/emulation"
OUT_OF_MEMORY, INVALIDATED, LAUNCH_FAILED = 2, 901, 719


def build(folder):
    """Build the libraries."""
    compiler = os.environ.get("CXX", "c++")
    shared = [compiler, "-std=c++17", "-fno-strict-aliasing", "-shared", "-fPIC"]
    kernels = ["-O3", "-march=native", "-Wno-unknown-pragmas", "-DTRINART_EMULATION"]
    kernels += ["-I", ROOT / "crates/render/src/kernels/source"]
    driver = [HERE / f"driver{part}.cpp" for part in ("", "_graph", "_kernels", "_memory", "_stream")]
    cuda = [*driver, EMULATION / "emulation.cpp", "-ldl", "-lpthread", "-o", folder / "libcuda.so.1"]
    subprocess.run([*shared, *kernels, "-I", EMULATION, "-Wl,-Bsymbolic", *cuda], check=True)
    for name in "libcublas.so.13", "libcurand.so.10":
        subprocess.run([*shared, HERE / "driver_libraries.cpp", "-o", folder / name], check=True)


def model(path, seed=0, change=lambda key, values: values):
    """Write a narrow SD v1 checkpoint with random weights of variance 1/n, so that activations keep their magnitude."""
    shapes = json.loads((ROOT / "fixtures/render/tiny-sd1.json").read_text())
    header, data = {}, bytearray()
    for key, shape in shapes.items():
        count, drawn = 1, random.Random(f"{seed} {key}")
        for side in shape:
            count *= side
        if len(shape) == 1:
            scale, middle = 0.25, float(key.endswith("weight"))
        else:
            scale, middle = (1.0 if "embedding.weight" in key else (3 * shape[0] / count) ** 0.5), 0.0
        # Large tensors repeat a row of values, which is enough for these tests.
        row = [scale * (2 * drawn.random() - 1) + middle for _ in range(min(count, 65537))]
        values = array.array("f", (row * (count // len(row) + 1))[:count])
        values = change(key, values).tobytes()
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


class Run:
    """The result of a render."""

    def __init__(self, done, picture):
        self.status = done.returncode
        self.output, self.errors = done.stdout, done.stderr
        self.picture = picture.read_bytes() if picture.exists() else b""

    def number(self, pattern):
        found = re.search(pattern, self.output + self.errors)
        return float(found.group(1)) if found else None

    def launches(self):
        return self.number(r"in (\d+) graph launches")

    def psnr(self):
        """The PSNR to the picture of --against, in dB."""
        return float("inf") if re.search(r"picture +identical pixels", self.output) else self.number(r"PSNR ([\d.]+) dB") or 0.0


class Bench:
    def __init__(self, program, folder):
        self.program, self.folder, self.count = program, folder, 0
        self.libraries = folder / "libraries"

    def render(self, checkpoint, *options, device="cuda", libraries=None, steps=4, size="64x64", **settings):
        self.count += 1
        picture = self.folder / f"{self.count}-{random.random()}.png"
        command = [self.program, "render-check", checkpoint, "-o", picture, "--sampler", "Euler", "--device", device]
        command += ["--steps", str(steps), "--size", size, *options]
        environment = dict(os.environ, LD_LIBRARY_PATH=str(libraries or self.libraries), FAKE_CUDA_REPORT="1")
        environment.update({f"FAKE_CUDA_{name}": str(value) for name, value in settings.items()})
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=1800)
        return Run(done, picture)

    def files(self):
        folder = self.folder
        self.plain = model(folder / "plain.safetensors")
        self.other = model(folder / "other.safetensors", seed=1)

        def amplified(key, values):
            is_first_weight = key == "first_stage_model.decoder.conv_in.weight"
            return array.array("f", [1e5 * value for value in values]) if is_first_weight else values

        self.overflowing = model(folder / "overflowing.safetensors", change=amplified)
        for name, dtype in ("f32.ckpt", "f32"), ("f16.ckpt", "f16"), ("bf16.safetensors", "bf16"):
            self.convert(folder / name, dtype)
        self.damaged = folder / "damaged.ckpt"
        data = bytearray((folder / "f32.ckpt").read_bytes())
        data[len(data) // 2] ^= 1
        self.damaged.write_bytes(data)

    def convert(self, path, dtype):
        command = [self.program, "convert", "--quiet", "--dtype", dtype, "-o", path, self.plain]
        subprocess.run(list(map(str, command)), check=True)


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def rendered(run):
    """Check that the run wrote a picture. Random weights fail render checks, so 1 is a valid status; 99 means that the
    fake driver reported an error."""
    check(run.status in (0, 1) and run.picture, f"status {run.status}, {run.errors.splitlines()[:3]}")
    check(not run.number(r"(\d+) kernels of candle"), "launched kernels of candle, which the driver has to compile at run time")
    return run


def prints(run, message):
    check(message in rendered(run).output, f"did not print {message!r}")
    return run


def fails(run, message):
    lines = [line for line in run.errors.splitlines() if not line.startswith("fake CUDA driver: ")]
    check(run.status == 2 and len(lines) == 1 and message in lines[0], f"status {run.status}, {lines}")
    return run


def replayed(bench, checkpoint, *options, steps=4, launches=None, **more):
    """Check that recorded steps compute the same picture as steps without a recording."""
    alone = rendered(bench.render(checkpoint, *options, steps=steps, FAIL="cuStreamBeginCapture_v2=801", **more))
    run = rendered(bench.render(checkpoint, *options, steps=steps, **more))
    expected = steps - 1 if launches is None else launches
    check(alone.launches() == 0 and run.launches() == expected, f"{run.launches()} graph launches, expected {expected}")
    check(run.picture == alone.picture, "the picture of recorded steps differs")
    return run


def matches_the_cpu(bench, least, checkpoint, *options, steps=4, **more):
    cpu = rendered(bench.render(checkpoint, *options, device="cpu", steps=steps, size=more.get("size", "64x64")))
    picture = bench.folder / f"cpu-{random.random()}.png"
    picture.write_bytes(cpu.picture)
    run = rendered(bench.render(checkpoint, *options, "--against", picture, steps=steps, **more))
    check(run.psnr() > least, f"PSNR to the CPU {run.psnr()} dB, expected more than {least}")
    return run


def survives(bench, what, plain=[]):
    """Check that a failed recording falls back to a run without one, with the same picture."""
    if not plain:
        plain.append(rendered(bench.render(bench.plain, FAIL="cuStreamBeginCapture_v2=801")))
    run = rendered(bench.render(bench.plain, FAIL=what))
    check(run.launches() == 0 and run.picture == plain[0].picture, "the picture without a recording differs")


def with_libraries(bench, *names):
    folder = bench.folder / "-".join(names)
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(bench.libraries / name, folder)
    return folder


OUT_OF_MEMORY_MESSAGE = "the GPU does not have enough free memory"
TWO = ["--prompt", "a cat AND a dog :0.7"]
LONG = ["--prompt", "a cat, " * 40 + "AND a dog"]
CASES = {
    "f16, 1 step": lambda b: replayed(b, b.plain, steps=1),
    "f16, 2 steps": lambda b: replayed(b, b.plain, steps=2),
    "f16, 4 steps": lambda b: replayed(b, b.plain),
    "bf16": lambda b: replayed(b, b.plain, "--dtype", "bf16"),
    "f32": lambda b: replayed(b, b.plain, "--dtype", "f32"),
    "f16 against the CPU": lambda b: matches_the_cpu(b, 35, b.plain, "--dtype", "f16"),
    "bf16 against the CPU": lambda b: matches_the_cpu(b, 20, b.plain, "--dtype", "bf16"),
    "f32 against the CPU": lambda b: matches_the_cpu(b, 50, b.plain, "--dtype", "f32"),
    "late copies to shared memory": lambda b: matches_the_cpu(b, 50, b.plain, "--dtype", "f32", steps=3, MODE=3),
    "132 multiprocessors": lambda b: matches_the_cpu(b, 50, b.plain, "--dtype", "f32", steps=3, MULTIPROCESSORS=132),
    "128x64": lambda b: replayed(b, b.plain, size="128x64", steps=3),
    "128x64 against the CPU": lambda b: matches_the_cpu(b, 50, b.plain, "--dtype", "f32", size="128x64", steps=2),
    "another checkpoint": lambda b: replayed(b, b.plain, "--against", b.other, steps=3, launches=4),
    "two prompts": lambda b: replayed(b, b.plain, *TWO, steps=3),
    "prompts of two lengths": lambda b: replayed(b, b.plain, *LONG, steps=3, launches=4),
    "two prompts against the CPU": lambda b: matches_the_cpu(b, 50, b.plain, "--dtype", "f32", *LONG, steps=3),
    "without memory pools": lambda b: rendered(b.render(b.plain, POOLS=0)),
    ".ckpt": lambda b: matches_the_cpu(b, 50, b.folder / "f32.ckpt", "--dtype", "f32", steps=2),
    ".ckpt in f16": lambda b: matches_the_cpu(b, 50, b.folder / "f16.ckpt", "--dtype", "f32", steps=2),
    "stored in bf16": lambda b: matches_the_cpu(b, 50, b.folder / "bf16.safetensors", "--dtype", "f32", steps=2),
    "a damaged .ckpt": lambda b: fails(b.render(b.damaged), "damaged.ckpt"),
    "a VAE that overflows f16": lambda b: prints(b.render(b.overflowing, steps=2), "decoded in f32"),
    "a VAE that overflows f16, in bf16": lambda b: rendered(b.render(b.overflowing, "--dtype", "bf16", steps=2)),
    "almost no memory": lambda b: fails(b.render(b.plain, MEMORY=1 << 20), OUT_OF_MEMORY_MESSAGE),
    "memory for half of the text encoder": lambda b: fails(b.render(b.plain, MEMORY=9 << 20), OUT_OF_MEMORY_MESSAGE),
    "no memory for a weight": lambda b: fails(b.render(b.plain, FAIL=f"cuMemAllocAsync@900={OUT_OF_MEMORY}"), OUT_OF_MEMORY_MESSAGE),
    "no memory in a step": lambda b: fails(b.render(b.plain, FAIL=f"cuMemAllocAsync@1750={OUT_OF_MEMORY}"), OUT_OF_MEMORY_MESSAGE),
    "no pinned memory": lambda b: fails(b.render(b.plain, FAIL=f"cuMemHostAlloc@2={OUT_OF_MEMORY}"), OUT_OF_MEMORY_MESSAGE),
    "no memory for the graph": lambda b: survives(b, f"cuGraphUpload={OUT_OF_MEMORY}"),
    "no graph": lambda b: survives(b, f"cuGraphInstantiateWithFlags={OUT_OF_MEMORY}"),
    "a recording that a launch invalidates": lambda b: survives(b, f"cuLaunchKernel~100={INVALIDATED}"),
    "a recording that a free invalidates": lambda b: survives(b, f"cuMemFreeAsync~50={INVALIDATED}"),
    "a recording without memory": lambda b: survives(b, f"cuMemAllocAsync~20={OUT_OF_MEMORY}"),
    "a launch that fails": lambda b: fails(b.render(b.plain, FAIL="cuLaunchKernel@1000=1"), "CUDA"),
    "a graph that fails": lambda b: fails(b.render(b.plain, FAIL=f"cuGraphLaunch@2={LAUNCH_FAILED}"), "CUDA"),
    "no GPU": lambda b: fails(b.render(b.plain, DEVICES=0), "there is no NVIDIA GPU"),
    "no GPU with this index": lambda b: fails(b.render(b.plain, device="cuda:1"), "there is no GPU with this index"),
    "an older GPU": lambda b: fails(b.render(b.plain, CAPABILITY=75), "compute capability 7.5"),
    "an older driver": lambda b: fails(b.render(b.plain, FAIL="cuModuleLoadData=222"), "driver is older"),
    "no driver": lambda b: fails(b.render(b.plain, libraries="/nowhere"), "there is no NVIDIA driver"),
    "no cuBLAS": lambda b: fails(b.render(b.plain, libraries=with_libraries(b, "libcuda.so.1")), "cuBLAS"),
    "no cuRAND": lambda b: fails(
        b.render(b.plain, libraries=with_libraries(b, "libcuda.so.1", "libcublas.so.13")), "cuRAND"
    ),
    "no GPU, with --device auto": lambda b: prints(b.render(b.plain, device="auto", DEVICES=0), "CPU (CUDA: there"),
}


def main():
    program, wanted = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    unknown = [name for name in wanted if name not in CASES]
    if unknown:
        sys.exit(f"unknown cases {unknown}; the cases are {list(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(program, pathlib.Path(folder))
        bench.libraries.mkdir()
        build(bench.libraries)
        bench.files()

        def outcome(name):
            try:
                CASES[name](bench)
            except (AssertionError, subprocess.SubprocessError) as error:
                return f"FAIL  {name}: {error}"
            return f"pass  {name}"

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            lines = []
            for line in threads.map(outcome, wanted or CASES):
                print(line, flush=True)
                lines.append(line)
    sys.exit(any(line.startswith("FAIL") for line in lines))


if __name__ == "__main__":
    main()
