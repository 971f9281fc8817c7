"""Mutation testing of the ledger, the retries and the decoding: print the score and the survivors.

    python scripts/mutate.py [--keep] [PATTERN ...]

mutmut changes one thing at a time in the modules that `[tool.mutmut]` in pyproject.toml names, and runs the
tests that reach it. A change that no test notices has survived. The score is the share of the others; the
exit status is 1 below 90 %. `--keep` takes up an earlier run where it was left; patterns narrow it
(`executionkit.retry*`).
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.9
NOTICED = {"killed", "timeout", "segfault", "caught by type check"}
SETTINGS = {"CI": "1", "EXECUTIONKIT_SHAPES": "300"}
"""Hypothesis draws the same examples each time, and no slow machine fails a deadline."""


def mutmut(*arguments: str, quiet: bool = True) -> str:
    """Run a command of mutmut's and return what it printed."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    out = subprocess.PIPE if quiet else None
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **SETTINGS}, stdout=out, text=True, check=True)
    return run.stdout or ""


def results() -> dict[str, str]:
    """Return what became of each mutant, by its name."""
    lines = (line.strip().rsplit(": ", 1) for line in mutmut("results", "--all", "true").splitlines())
    return {found[0]: found[1] for found in lines if len(found) == 2 and found[1] != "not checked"}


def change(mutant: str) -> list[str]:
    """Return the lines that a mutant takes out and puts in."""
    shown = mutmut("show", mutant).splitlines()
    return [line for line in shown if line[:1] in {"-", "+"} and line[:3] not in {"---", "+++"}]


def report(found: dict[str, str]) -> float:
    """Print the score of each module, what survived, and the score of all."""
    ends: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for mutant, end in found.items():
        ends[mutant.rpartition(".")[0]][end in NOTICED] += 1
    for mutant, end in found.items():
        if end not in NOTICED:
            print(f"\n{mutant}: {end}", *change(mutant), sep="\n")
    print()
    for module, count in sorted(ends.items()):
        print(f"{module:40} {count[True]:5} of {count.total():5}  {count[True] / count.total():6.1%}")
    noticed = sum(count[True] for count in ends.values())
    score = noticed / max(1, len(found))
    print(f"{'all':40} {noticed:5} of {len(found):5}  {score:6.1%}")
    return score


def main() -> int:
    """Run mutmut and report; return the exit status."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--keep", action="store_true", help="go on with an earlier run")
    parser.add_argument("patterns", nargs="*", help="mutants to run, all if none")
    options = parser.parse_args()
    if not options.keep:
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    mutmut("run", *options.patterns, quiet=False)
    return int(report(results()) < LEAST)


if __name__ == "__main__":
    sys.exit(main())
