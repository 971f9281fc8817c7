# `pip install rust-just`, then `just demo` or `just test`. Everything is installed into .venv.



python := env("PYTHON", "python3")
export PATH := justfile_directory() / ".venv/bin" + ":" + env("PATH")
# pyrefly looks for packages where an activated environment says that they are.
export VIRTUAL_ENV := justfile_directory() / ".venv"

# List the recipes
default:
    @{{ just_executable() }} --justfile {{ justfile() }} --list --unsorted

# Run examples/quickstart.py on the embedded model: no key, no network
demo: (install "local,progress")
    @python examples/quickstart.py

# Run the whole suite: every checker, then every test, the embedded model included
test *args: check
    # One more than there are cores, for many tests wait; four at most.
    python -m pytest -n "$(python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')" --dist loadfile {{ args }}

# Run the checkers: ruff, mypy, pyright, pyrefly, verifytypes, stubtest, import-linter; ty for information
check: (install "dev")
    ruff check .
    ruff format --check .
    lint-imports
    # Both at once, for each takes its time on one core.
    mypy & mypy=$!; pyright && wait $mypy
    pyright --verifytypes executionkit --ignoreexternal
    pyrefly check
    python scripts/refused.py
    python scripts/pages.py
    -ty check --exit-zero --output-format concise executionkit examples tests/typing
    MYPYPATH=stubs stubtest xllamacpp --ignore-missing-stub --mypy-config-file mypy.ini

# Run the suite on the built wheel: each Python found, with and without extras, lowest dependencies
matrix *args: (install "dev")
    python scripts/matrix.py {{ args }}

# Print what the library costs beside the same work by hand, and its transport beside others'
bench *args: (install "dev")
    python benchmarks/overhead.py {{ args }}
    python benchmarks/transport.py {{ args }}

# Replay recorded votes through the vote: `just replay --votes FILE --orders 40`
replay *args: (install "dev")
    python benchmarks/replay.py {{ args }}

# Soak it: 10,000 random schedules of faults, 100,000 runs, a vote of 10,000 samples; nothing may be left
soak *args: (install "dev")
    python benchmarks/soak.py {{ args }}

# Fuzz what reads a server's bytes for some minutes: `just fuzz 10`
fuzz *args: (install "dev,fuzz")
    python scripts/fuzz.py {{ args }}

# Run a campaign of the suite in its long form: `just long wire`
long *args: (install "dev")
    python scripts/long.py {{ args }}

# Change ledger, retries and decoding in every small way, and print which changes no test notices
mutate *args: (install "dev,mutation")
    python scripts/mutate.py {{ args }}

# Make .venv and install the package with these extras and the embedded model, unless that is done already
[private]
install extras:
    @PYTHON="{{ python }}" bash scripts/install "{{ extras }}"
