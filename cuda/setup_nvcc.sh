#!/usr/bin/env bash
# A CUDA 13.0 compiler from PyPI wheels: no root, no card, no driver. For building with the feature `cuda` on a machine
# without a CUDA toolkit.
#
#     bash cuda/setup_nvcc.sh target/cuda-toolkit
#     source target/cuda-toolkit/env.sh
#     cargo build --release --features cuda
#
# The program is linked with libraries that open the real ones at the first call (lazy_libraries.py): it starts on a
# machine without CUDA, and uses CUDA where it is. Needs python3 with venv, gcc, g++, binutils and cargo; 105 MB are
# downloaded, 275 MB lie on the disk then.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
DIR=${1:?a folder for the toolkit}; mkdir -p "$DIR"; DIR=$(cd "$DIR" && pwd)
CUDARC_VERSION=$(sed -n '/^name = "cudarc"$/{n;s/version = "\(.*\)"/\1/p}' "$HERE/../Cargo.lock")

# Each wheel by its version: they name each other without one, and pip would mix 13.0 with later ones.
[ -x "$DIR/venv/bin/pip" ] || python3 -m venv "$DIR/venv"
"$DIR/venv/bin/pip" install -q --no-deps --no-compile --only-binary=:all: \
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
PACKAGES=$("$DIR/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
CUDA="$PACKAGES/nvidia/cu13"
ln -sfn "$CUDA" "$DIR/cuda"
ln -sfn lib "$CUDA/lib64"   # nvcc.profile says lib64, the wheel says lib

# What is linked. libcuda is in no wheel, and those of cublas and curand would cost 600 MB just to be named.
cargo fetch -q --manifest-path "$HERE/../Cargo.toml"
CUDARC=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-"$CUDARC_VERSION" | head -1)
rm -rf "$CUDA/lib/stubs"; rm -f "$CUDA/lib/libcudart.so" "$CUDA/lib/libcudart.a"
python3 "$HERE/lazy_libraries.py" "$CUDARC" "$CUDA/lib/stubs"
ln -s libcudart_static.a "$CUDA/lib/libcudart.a"   # candle-kernels asks for cudart; static needs nothing to start

# candle-kernels compiles its static library for one card only; PTX instead runs on newer ones too.
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
export CUDA_HOME=$DIR/cuda CUDA_PATH=$DIR/cuda    # where cudarc's build script looks for libraries
export PATH=$DIR/cuda/bin:\$PATH                  # cudarc's build script runs "nvcc --version"
export NVCC=$DIR/bin/nvcc                         # candle-kernels' and ours
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-80}  # candle-kernels' build script asks nvidia-smi without it, and fails
export CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-2} # nvcc's that run at a time
ENVIRONMENT

. "$DIR/env.sh"
nvcc --version | tail -1
echo "next: source $DIR/env.sh && cargo build --release --features cuda"
