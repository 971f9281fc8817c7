# `pip install rust-just`, then `just demo` or `just test`. Everything is installed into .venv.



python := env("PYTHON", "python3")
bin := justfile_directory() / ".venv/bin"

# List the recipes
default:
    @{{ just_executable() }} --justfile {{ justfile() }} --list --unsorted

# Run examples/quickstart.py on the embedded model: no key, no network
demo: (install "local,progress")
    {{ bin }}/python examples/quickstart.py

# Run the whole suite: every checker, then every test, the embedded model included
test *args: check
    {{ bin }}/python -m pytest {{ args }}

# Run the checkers: ruff, mypy, pyright, verifytypes, stubtest, import-linter
check: (install "dev")
    {{ bin }}/ruff check .
    {{ bin }}/ruff format --check .
    {{ bin }}/lint-imports
    {{ bin }}/mypy
    {{ bin }}/pyright
    {{ bin }}/pyright --verifytypes executionkit --ignoreexternal
    MYPYPATH=stubs {{ bin }}/stubtest xllamacpp --ignore-missing-stub --mypy-config-file mypy.ini

# Run the suite on the built wheel: each Python found, with and without extras, lowest dependencies
matrix *args: (install "dev")
    {{ bin }}/python scripts/matrix.py {{ args }}

# Make .venv and install the package with these extras and the embedded model, unless that is done already
[private]
install extras:
    @PYTHON="{{ python }}" bash scripts/install "{{ extras }}"
