"""Fuzz what reads a stranger's bytes, for some minutes: answers, errors, streams, waits and JSON in prose.

    python scripts/fuzz.py [MINUTES] [--hypothesis]

Atheris changes inputs towards code that no input has reached yet; where it is not installed (it has no build
for every platform) Hypothesis draws them. Either way each input goes to one reader of `tests/fuzzing.py`,
picked by its first byte, and must come out as a value of ours. Any exception ends the run with the input that
raised it, and with an exit status that is not 0. Inputs are kept under `.fuzz/`, where the next run begins.
"""

import argparse
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".fuzz"


def with_libfuzzer(arguments: list[str]) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    atheris: Any = import_module("atheris")  # without types, and not everywhere
    with atheris.instrument_imports(include=["executionkit"]):
        readers = import_module("tests.fuzzing")
    atheris.Setup([__file__, *arguments], readers.one_input)
    atheris.Fuzz()


def run_atheris(seconds: int) -> int:
    """Fuzz in another process, and return its exit status."""
    corpus = KEPT / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(import_module("tests.fuzzing").seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    limits = [f"-max_total_time={seconds}", "-timeout=20", "-max_len=8192", "-print_final_stats=1"]
    command = [sys.executable, __file__, "--libfuzzer", *limits, f"-artifact_prefix={KEPT}/", str(corpus)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def run_hypothesis(seconds: int) -> int:
    """Fuzz with inputs that Hypothesis draws; an exception ends it with a traceback."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    readers = import_module("tests.fuzzing")
    end, count, seeds = time.monotonic() + seconds, 0, st.sampled_from(readers.seeds())
    changes = st.tuples(seeds, st.integers(0, 400), st.binary(max_size=40), st.integers(0, 400))
    changed = changes.map(lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[3] :])

    @settings(max_examples=5_000, deadline=None, database=None)
    @given(st.binary(max_size=400) | changed)
    def once(data: bytes) -> None:
        nonlocal count
        count += 1
        readers.one_input(data)

    while time.monotonic() < end:
        once()
    print(f"Hypothesis: {count} inputs in {seconds} s, and none raised")
    return 0


def main() -> int:
    """Fuzz for so many minutes and return the exit status."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("minutes", nargs="?", type=float, default=5.0)
    parser.add_argument("--hypothesis", action="store_true", help="without atheris")
    options = parser.parse_args()
    with_atheris = find_spec("atheris") is not None and not options.hypothesis
    return (run_atheris if with_atheris else run_hypothesis)(int(options.minutes * 60))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if "--libfuzzer" in sys.argv:
        with_libfuzzer(sys.argv[2:])
    sys.exit(main())
