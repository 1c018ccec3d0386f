#!/usr/bin/env bash
# Installs a CUDA 13.0 compiler from PyPI wheels, to build the feature `cuda` without a CUDA toolkit. Requires no root
# access, GPU or driver.
#
#     bash cuda/setup_nvcc.sh target/cuda-toolkit
#     source target/cuda-toolkit/env.sh
#     cargo build --release --features cuda
#
# Links the program with stub libraries that load the real CUDA libraries at the first call (lazy_libraries.py), so the
# program also starts on machines without CUDA. Requires python3 with venv, gcc, g++, binutils and cargo. Downloads 105
# MB and needs 275 MB of disk.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
DIR=${1:?usage: setup_nvcc.sh FOLDER}; mkdir -p "$DIR"; DIR=$(cd "$DIR" && pwd)
CUDARC_VERSION=$(sed -n '/^name = "cudarc"$/{n;s/version = "\(.*\)"/\1/p}' "$HERE/../Cargo.lock")

# Pins every wheel, because the dependencies of these wheels have no versions, and pip would mix 13.0 with later
# releases.
[ -x "$DIR/venv/bin/pip" ] || python3 -m venv "$DIR/venv"
"$DIR/venv/bin/pip" install -q --no-deps --no-compile --only-binary=:all: \
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
PACKAGES=$("$DIR/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
CUDA="$PACKAGES/nvidia/cu13"
ln -sfn "$CUDA" "$DIR/cuda"
ln -sfn lib "$CUDA/lib64"   # nvcc.profile expects lib64, the wheel has lib

# The libraries to link. No wheel contains libcuda, and the wheels of cuBLAS and cuRAND are 600 MB in total.
cargo fetch -q --manifest-path "$HERE/../Cargo.toml"
CUDARC=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-"$CUDARC_VERSION" | head -1)
rm -rf "$CUDA/lib/stubs"; rm -f "$CUDA/lib/libcudart.so" "$CUDA/lib/libcudart.a"
python3 "$HERE/lazy_libraries.py" "$CUDARC" "$CUDA/lib/stubs"
ln -s libcudart_static.a "$CUDA/lib/libcudart.a"   # candle-kernels links cudart; the static library is not needed at run time

# candle-kernels compiles its static library for a single architecture. This wrapper requests PTX, which also runs on
# newer GPUs.
mkdir -p "$DIR/bin"
cat > "$DIR/bin/nvcc" <<WRAPPER
#!/usr/bin/env bash
a=()
for x in "\$@"; do
  case "\$x" in -gencode=arch=compute_*,code=sm_*) x="\${x%%,*}"; x="\$x,code=\${x#-gencode=arch=}";; esac
  a+=("\$x")
done
exec "$DIR/cuda/bin/nvcc" "\${a[@]}"
WRAPPER
chmod +x "$DIR/bin/nvcc"

cat > "$DIR/env.sh" <<ENVIRONMENT
export CUDA_HOME=$DIR/cuda CUDA_PATH=$DIR/cuda    # where cudarc's build script searches for libraries
export PATH=$DIR/cuda/bin:\$PATH                  # cudarc's build script runs "nvcc --version"
export NVCC=$DIR/bin/nvcc                         # for candle-kernels and crates/render/build.rs
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-80}  # otherwise candle-kernels' build script runs nvidia-smi
export CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-2} # parallel nvcc processes
ENVIRONMENT

. "$DIR/env.sh"
nvcc --version | tail -1
echo "next: source $DIR/env.sh && cargo build --release --features cuda"
