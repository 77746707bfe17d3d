#!/usr/bin/env bash
# Runs every fuzz target, or those named, for so many seconds each: run.sh SECONDS [TARGET…].
# What libFuzzer finds on the way stays in target/fuzz-corpus; an input that breaks a promise goes
# to tests/fuzz/artifacts, and the run goes on with the next target and fails at its end.
#
# The stable toolchain will do: RUSTC_BOOTSTRAP allows the flags that cargo-fuzz passes to it. The
# product forbids unsafe code, so the address sanitizer is off; SANITIZER=address turns it on.
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:?seconds for each target}"
shift
export RUSTC_BOOTSTRAP=1
sanitizer="${SANITIZER:-none}"

if ! command -v cargo-fuzz >/dev/null; then
  cargo install cargo-fuzz --version 0.13.2 --locked
fi
fuzz() { cargo fuzz "$@"; }
common=(--fuzz-dir . --sanitizer "$sanitizer" --target-dir ../../target/fuzz)

fuzz build "${common[@]}"
if [ $# -eq 0 ]; then
  for program in fuzz_targets/*.rs; do
    set -- "$@" "$(basename "$program" .rs)"
  done
fi
broken=()
for target in "$@"; do
  printf '\n== %s, %s s\n' "$target" "$seconds"
  corpus="../../target/fuzz-corpus/$target"
  mkdir -p "$corpus"
  known=("seeds/$target")
  if [ -d "regressions/$target" ]; then known+=("regressions/$target"); fi
  fuzz run "${common[@]}" "$target" "$corpus" "${known[@]}" -- \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    || broken+=("$target")
done
if [ ${#broken[@]} -gt 0 ]; then
  printf '\nbroken: %s; the inputs are in tests/fuzz/artifacts\n' "${broken[*]}"
  exit 1
fi
