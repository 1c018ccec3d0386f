#!/usr/bin/env python3
"""Runs a program that was built with the feature `cuda` where there is no card.

    cuda/fake-driver/run_driver.py target/release/trinart-ckpt [CASE..]

The driver in driver*.cpp and the kernels are built with the system's C++ compiler, as the libraries that the program
loads: libcuda.so.1, libcublas.so.13, libcurand.so.10. The program has to be linked so that it loads them by these names
when it first calls them. So its host code runs as it is: uploads, launches, recorded steps, what is freed and when, and
what it says where something fails. What is not tried is that a card and NVIDIA's own driver do the same.

Each case is a line. The exit status is 1 where one failed. It needs Python 3.8 and nothing else; with two cores it
takes some ten minutes. Settings of the driver, for runs by hand (EMULATED_CUDA_..):

    REPORT=1             says at the end what was launched, and how much memory was taken
    MEMORY=bytes         of the card
    DEVICES=0            no card
    CAPABILITY=75        an older one
    MULTIPROCESSORS=132  a larger one
    MODE=3               copies to shared memory arrive late, and the last warp is the first
    FAIL=function=code, function@3=code, function~3=code, and so on
                         an error at each call, at the third one, at the third one while a stream is captured
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
EMULATION = ROOT / "tests/emulation"
OUT_OF_MEMORY, INVALIDATED, LAUNCH_FAILED = 2, 901, 719


def build(folder):
    """The libraries."""
    compiler = os.environ.get("CXX", "c++")
    shared = [compiler, "-std=c++17", "-fno-strict-aliasing", "-shared", "-fPIC"]
    kernels = ["-O3", "-march=native", "-Wno-unknown-pragmas", "-DTRINART_EMULATION"]
    kernels += ["-I", ROOT / "src/render/kernels/source"]
    driver = [HERE / f"driver{part}.cpp" for part in ("", "_graph", "_kernels", "_memory", "_stream")]
    cuda = [*driver, EMULATION / "emulation.cpp", "-ldl", "-lpthread", "-o", folder / "libcuda.so.1"]
    subprocess.run([*shared, *kernels, "-I", EMULATION, "-Wl,-Bsymbolic", *cuda], check=True)
    for name in "libcublas.so.13", "libcurand.so.10":
        subprocess.run([*shared, HERE / "driver_libraries.cpp", "-o", folder / name], check=True)


def model(path, seed=0, change=lambda key, values: values):
    """A narrow SD v1 with random weights, of variance 1/n, so that values keep their size."""
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
        # Large tables from a row of numbers that is repeated: nothing here depends on more.
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
    """What came of a render."""

    def __init__(self, done, picture):
        self.status = done.returncode
        self.said, self.errors = done.stdout, done.stderr
        self.picture = picture.read_bytes() if picture.exists() else b""

    def number(self, pattern):
        found = re.search(pattern, self.said + self.errors)
        return float(found.group(1)) if found else None

    def launches(self):
        return self.number(r"in (\d+) launches of graphs")

    def likeness(self):
        """To the picture that it was held against, in dB."""
        return float("inf") if re.search(r"picture +the same", self.said) else self.number(r"PSNR ([\d.]+) dB") or 0.0


class Bench:
    def __init__(self, program, folder):
        self.program, self.folder, self.count = program, folder, 0
        self.libraries = folder / "libraries"

    def render(self, checkpoint, *options, device="cuda", libraries=None, steps=4, size="64x64", **settings):
        self.count += 1
        picture = self.folder / f"{self.count}-{random.random()}.png"
        command = [self.program, "render-check", checkpoint, "-o", picture, "--sampler", "Euler", "--device", device]
        command += ["--steps", str(steps), "--size", size, *options]
        environment = dict(os.environ, LD_LIBRARY_PATH=str(libraries or self.libraries), EMULATED_CUDA_REPORT="1")
        environment.update({f"EMULATED_CUDA_{name}": str(value) for name, value in settings.items()})
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=1800)
        return Run(done, picture)

    def files(self):
        folder = self.folder
        self.plain = model(folder / "plain.safetensors")
        self.other = model(folder / "other.safetensors", seed=1)

        def louder(key, values):
            is_loud = key == "first_stage_model.decoder.conv_in.weight"
            return array.array("f", [1e5 * value for value in values]) if is_loud else values

        self.loud = model(folder / "loud.safetensors", change=louder)
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


def drawn(run):
    """A picture: random weights fail checks, which is the status 1. At 99 the driver had something to say."""
    check(run.status in (0, 1) and run.picture, f"status {run.status}, {run.errors.splitlines()[:3]}")
    check(not run.number(r"(\d+) of candle"), "kernels of candle, which the driver has to compile")
    return run


def says(run, message):
    check(message in drawn(run).said, f"no {message!r}")
    return run


def refused(run, message):
    lines = [line for line in run.errors.splitlines() if not line.startswith("emulated CUDA: ")]
    check(run.status == 2 and len(lines) == 1 and message in lines[0], f"status {run.status}, {lines}")
    return run


def replayed(bench, checkpoint, *options, steps=4, launches=None, **more):
    """Recorded steps are those that are not recorded."""
    alone = drawn(bench.render(checkpoint, *options, steps=steps, FAIL="cuStreamBeginCapture_v2=801", **more))
    run = drawn(bench.render(checkpoint, *options, steps=steps, **more))
    expected = steps - 1 if launches is None else launches
    check(alone.launches() == 0 and run.launches() == expected, f"{run.launches()} launches of graphs, not {expected}")
    check(run.picture == alone.picture, "a recorded step is another one")
    return run


def like_the_cpu(bench, least, checkpoint, *options, steps=4, **more):
    cpu = drawn(bench.render(checkpoint, *options, device="cpu", steps=steps, size=more.get("size", "64x64")))
    picture = bench.folder / f"cpu-{random.random()}.png"
    picture.write_bytes(cpu.picture)
    run = drawn(bench.render(checkpoint, *options, "--against", picture, steps=steps, **more))
    check(run.likeness() > least, f"{run.likeness()} dB to the CPU's")
    return run


def survives(bench, what, plain=[]):
    """What breaks a recording breaks nothing else."""
    if not plain:
        plain.append(drawn(bench.render(bench.plain, FAIL="cuStreamBeginCapture_v2=801")))
    run = drawn(bench.render(bench.plain, FAIL=what))
    check(run.launches() == 0 and run.picture == plain[0].picture, "another picture")


def with_libraries(bench, *names):
    folder = bench.folder / "-".join(names)
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(bench.libraries / name, folder)
    return folder


LITTLE = "the card has too little memory left"
TWO = ["--prompt", "a cat AND a dog :0.7"]
LONG = ["--prompt", "a cat, " * 40 + "AND a dog"]
CASES = {
    "f16, 1 step": lambda b: replayed(b, b.plain, steps=1),
    "f16, 2 steps": lambda b: replayed(b, b.plain, steps=2),
    "f16, 4 steps": lambda b: replayed(b, b.plain),
    "bf16": lambda b: replayed(b, b.plain, "--dtype", "bf16"),
    "f32": lambda b: replayed(b, b.plain, "--dtype", "f32"),
    "f16 as on the CPU": lambda b: like_the_cpu(b, 35, b.plain, "--dtype", "f16"),
    "bf16 as on the CPU": lambda b: like_the_cpu(b, 20, b.plain, "--dtype", "bf16"),
    "f32 as on the CPU": lambda b: like_the_cpu(b, 50, b.plain, "--dtype", "f32"),
    "copies that arrive late": lambda b: like_the_cpu(b, 50, b.plain, "--dtype", "f32", steps=3, MODE=3),
    "132 multiprocessors": lambda b: like_the_cpu(b, 50, b.plain, "--dtype", "f32", steps=3, MULTIPROCESSORS=132),
    "128x64": lambda b: replayed(b, b.plain, size="128x64", steps=3),
    "128x64 as on the CPU": lambda b: like_the_cpu(b, 50, b.plain, "--dtype", "f32", size="128x64", steps=2),
    "another checkpoint": lambda b: replayed(b, b.plain, "--against", b.other, steps=3, launches=4),
    "two prompts": lambda b: replayed(b, b.plain, *TWO, steps=3),
    "prompts of two lengths": lambda b: replayed(b, b.plain, *LONG, steps=3, launches=4),
    "two prompts as on the CPU": lambda b: like_the_cpu(b, 50, b.plain, "--dtype", "f32", *LONG, steps=3),
    "without pools of memory": lambda b: drawn(b.render(b.plain, POOLS=0)),
    ".ckpt": lambda b: like_the_cpu(b, 50, b.folder / "f32.ckpt", "--dtype", "f32", steps=2),
    ".ckpt of f16": lambda b: like_the_cpu(b, 50, b.folder / "f16.ckpt", "--dtype", "f32", steps=2),
    "bf16, stored": lambda b: like_the_cpu(b, 50, b.folder / "bf16.safetensors", "--dtype", "f32", steps=2),
    "a damaged .ckpt": lambda b: refused(b.render(b.damaged), "damaged.ckpt"),
    "an autoencoder beyond f16": lambda b: says(b.render(b.loud, steps=2), "decoded in f32"),
    "an autoencoder beyond f16, bf16": lambda b: drawn(b.render(b.loud, "--dtype", "bf16", steps=2)),
    "memory for nothing": lambda b: refused(b.render(b.plain, MEMORY=1 << 20), LITTLE),
    "memory for half of the text encoder": lambda b: refused(b.render(b.plain, MEMORY=9 << 20), LITTLE),
    "no memory for a weight": lambda b: refused(b.render(b.plain, FAIL=f"cuMemAllocAsync@900={OUT_OF_MEMORY}"), LITTLE),
    "no memory in a step": lambda b: refused(b.render(b.plain, FAIL=f"cuMemAllocAsync@1750={OUT_OF_MEMORY}"), LITTLE),
    "no pinned memory": lambda b: refused(b.render(b.plain, FAIL=f"cuMemHostAlloc@2={OUT_OF_MEMORY}"), LITTLE),
    "no memory for the graph": lambda b: survives(b, f"cuGraphUpload={OUT_OF_MEMORY}"),
    "no graph": lambda b: survives(b, f"cuGraphInstantiateWithFlags={OUT_OF_MEMORY}"),
    "a recording that breaks": lambda b: survives(b, f"cuLaunchKernel~100={INVALIDATED}"),
    "a recording that breaks at a free": lambda b: survives(b, f"cuMemFreeAsync~50={INVALIDATED}"),
    "a recording without memory": lambda b: survives(b, f"cuMemAllocAsync~20={OUT_OF_MEMORY}"),
    "a launch that is refused": lambda b: refused(b.render(b.plain, FAIL="cuLaunchKernel@1000=1"), "CUDA"),
    "a graph that fails": lambda b: refused(b.render(b.plain, FAIL=f"cuGraphLaunch@2={LAUNCH_FAILED}"), "CUDA"),
    "no card": lambda b: refused(b.render(b.plain, DEVICES=0), "there is no NVIDIA card"),
    "no card of this number": lambda b: refused(b.render(b.plain, device="cuda:1"), "no card of this number"),
    "an older card": lambda b: refused(b.render(b.plain, CAPABILITY=75), "compute capability 7.5"),
    "an older driver": lambda b: refused(b.render(b.plain, FAIL="cuModuleLoadData=222"), "driver is older"),
    "no driver": lambda b: refused(b.render(b.plain, libraries="/nowhere"), "there is no NVIDIA driver"),
    "no cuBLAS": lambda b: refused(b.render(b.plain, libraries=with_libraries(b, "libcuda.so.1")), "cuBLAS"),
    "no cuRAND": lambda b: refused(
        b.render(b.plain, libraries=with_libraries(b, "libcuda.so.1", "libcublas.so.13")), "cuRAND"
    ),
    "no card, and none asked for": lambda b: says(b.render(b.plain, device="auto", DEVICES=0), "CPU (CUDA: there"),
}


def main():
    program, wanted = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    unknown = [name for name in wanted if name not in CASES]
    if unknown:
        sys.exit(f"no cases {unknown}; there are {list(CASES)}")
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
