# Common tasks. `just --list` shows them. Each task can also be run as the plain command below it.

cuda_lint_env := 'NVCC="$PWD/.ci/nvcc" CUDA_COMPUTE_CAP=80 CUDARC_CUDA_VERSION=13000'

# Show the recipes
default:
    @just --list

# Type-check all targets
check:
    cargo check --workspace --all-targets

# Format the code
fmt:
    cargo fmt --all

# Check formatting and run clippy, with and without render-check, and on the library alone
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy --all-targets --no-default-features --features cli -- -D warnings
    cargo clippy --all-targets --no-default-features -- -D warnings

# Run clippy on the feature cuda; needs no CUDA toolkit
cuda-lint:
    {{cuda_lint_env}} cargo clippy -p trinart-ckpt-render --all-targets --features cuda --target-dir target/cuda-lints -- -D warnings

# Run all tests of the workspace, or those that match a filter: `just test scan::`
test *filter:
    cargo test --workspace {{filter}}

# Run all tests without render-check
test-no-render *filter:
    cargo test --no-default-features --features cli {{filter}}

# Install PyTorch, safetensors and picklescan, and run the tests that compare with them
test-peers:
    python3 tests/peers/install.py
    TRINART_PEERS_REQUIRED=1 cargo test -p trinart-ckpt -p trinart-ckpt-formats --test it -- peers:: scan:: unpickler::

# Feed mutated files to every reader for SECONDS
fuzz seconds="600":
    TRINART_FUZZ_SECONDS={{seconds}} cargo test --release -p trinart-ckpt -p trinart-ckpt-formats --test it -- --nocapture fuzz:: unpickler::

# Run the coverage-guided fuzz targets, each for SECONDS; needs a nightly compiler
fuzz-coverage seconds="60":
    bash fuzz/run {{seconds}}

# Build the documentation and check its links
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Compare with cp and PyTorch on full-size files (9.3 GB in target/bench)
bench:
    python3 tests/peers/install.py
    cargo build --release --no-default-features --features cli
    python3 benches/side_by_side.py --peer torch

# Generate the fixtures that need no packages besides those of tests/peers
fixtures:
    python3 tests/peers/install.py
    target/peers/bin/python fixtures/make.py
    python3 fixtures/hostile/make.py

# Check licenses, banned crates, advisories and sources of the dependencies; needs cargo-deny
deny:
    cargo deny check

# List the files of the published crates
package:
    cargo package --workspace --list --allow-dirty

# Run everything that CI runs
gate:
    bash .ci/run
