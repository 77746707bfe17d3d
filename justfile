# The same recipes that CI runs.

# Everything that decides whether a change may land.
ci:
    bash .ci/run

# What takes too long for every change; Linux, as the superuser.
nightly:
    bash .ci/nightly

# The README's test command.
test:
    cargo test --workspace

# Format, lint, documentation.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Every fuzz target for so many seconds, as many at once as there are processors; what breaks one is
# kept.
fuzz seconds="60":
    bash tests/fuzz/run.sh {{seconds}}

# Simulations with seeds that nobody has run before, for an hour or so many seconds.
soak seconds="3600":
    PASSERELLE_SIM_SECONDS={{seconds}} cargo test --workspace --test simulation whatever -- --nocapture
