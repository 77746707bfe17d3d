#!/usr/bin/env bash
# Runs every fuzz target, or those named, for so many seconds each, as many at once as there are
# processors: run.sh SECONDS [TARGET…].
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
# As many at once as there are processors; what each says comes when it has ended.
folder="../../target/fuzz-logs"
rm -rf "$folder" && mkdir -p "$folder"
one() {
  local target="$1" corpus="../../target/fuzz-corpus/$1" known=("seeds/$1")
  mkdir -p "$corpus"
  if [ -d "regressions/$target" ]; then known+=("regressions/$target"); fi
  fuzz run "${common[@]}" "$target" "$corpus" "${known[@]}" -- \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    >"$folder/$target.running" 2>&1 || touch "$folder/$target.broken"
  printf '\n== %s, %s s\n' "$target" "$seconds"
  tail -n 12 "$folder/$target.running"
  mv "$folder/$target.running" "$folder/$target.log"
}
for target in "$@"; do
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  one "$target" &
done
wait
broken=()
for target in "$@"; do
  # A target that has left no log has not run to its end.
  if [ -e "$folder/$target.broken" ] || [ ! -e "$folder/$target.log" ]; then broken+=("$target"); fi
done
if [ ${#broken[@]} -gt 0 ]; then
  printf '\nbroken: %s; the inputs are in tests/fuzz/artifacts, what they say in target/fuzz-logs\n' \
    "${broken[*]}"
  exit 1
fi
