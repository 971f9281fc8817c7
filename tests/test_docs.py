"""Runs README.md and every page under docs/, on both event loops.

What a page may rely on:

- Its Python blocks run in order and share one namespace, which is empty at first; `await` may stand at the top.
- `Provider(...)` may be made and asked. No page reaches a network: it answers "Paris", "Score: 9" where a judge
  is asked, and the first word of an enum where the schema has one.
- Blocks with `>>>` run as doctests, in the same namespace.
- `<!-- no-run: reason -->` above a block: it is compiled, not run, for the reason given (a real server).
- `<!-- file: path -->` above a block: it is a file of a walk-through, and `test_new_pattern.py` runs it.
- A shell block's `just X` must be a recipe, and every link to a page or a heading must lead there.
"""

import ast
import doctest
import inspect
import re
import runpy
import sys
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import msgspec
import pytest

import executionkit
from executionkit import LLMResponse, Message, Provider, RetryConfig, consensus, structured
from executionkit.patterns.complete import Complete
from executionkit.patterns.react import React
from executionkit.patterns.refine import Refine
from executionkit.providers.scripted import ScriptedProvider, ScriptedRequest
from tests.conftest import BARE

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERYTHING = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[\w-]+): (?P<note>.+?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_RECIPE = re.compile(r"^([a-z][a-z0-9_-]*)(?: [^:=]*)?:(?!=)", re.MULTILINE)
_SETTINGS = re.compile(r"^\| Setting \| Default .*\n\|[ |-]+\n((?:\|.*\n)+)", re.MULTILINE)
_SETTING = re.compile(r"^\| `(\w+)` \| (?:`(.+?)` )?\|", re.MULTILINE)
_DOCTESTS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

SETTINGS: dict[str, type[msgspec.Struct] | Callable[..., object]] = {
    "complete.md": Complete,
    "consensus.md": consensus,
    "refine.md": Refine,
    "react.md": React,
    "errors-and-budgets.md": RetryConfig,
    "typed_answers.md": structured,
}
"""Pages with a table of settings, and the struct or function whose they are."""

KEYWORDS = {"in_pieces": "stream"}
"""Fields that another name has as a keyword."""


class Block(NamedTuple):
    """A fenced block of a page; one in a list loses its margin."""

    page: Path
    line: int
    language: str
    mark: str
    note: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    source = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(source):
        line = source.count("\n", 0, found.start("text")) + 1
        yield Block(
            page, line, found["language"], found["mark"] or "", found["note"] or "", dedent(found["text"])
        )


_INNER = re.compile(r"\b(?:from|import) executionkit\.(?:core|runtime|patterns|providers|asking)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_imports_what_is_public(page: Path) -> None:
    # A file of the package itself, as the walk-through writes one, is held to import-linter instead.
    shown = [block for block in blocks(page) if block.mark != "file"]
    assert [block.line for block in shown if _INNER.search(block.text)] == []


def code(block: Block) -> Any:
    """Compile a block so that a traceback shows the page and its line."""
    text = "\n" * (block.line - 1) + block.text
    return compile(text, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def execute(block: Block, names: dict[str, Any], backend: str) -> None:
    """Run a block the way a console does: what awaits gets an event loop, the rest runs outside one."""
    if ">>>" in block.text:
        run_doctest(block, names)
        return
    pending = eval(code(block), names)
    if inspect.iscoroutine(pending):
        anyio.run(partial(_await, pending), backend=backend)


async def _await(pending: Coroutine[Any, Any, object]) -> None:
    await pending


def run_doctest(block: Block, names: dict[str, Any]) -> None:
    runner = doctest.DocTestRunner(optionflags=_DOCTESTS)
    test = doctest.DocTestParser().get_doctest(
        block.text, names, str(block.page), str(block.page), block.line
    )
    said: list[str] = []
    runner.run(test, out=said.append, clear_globs=False)
    names.update(test.globs)
    assert not runner.failures, "".join(said)


def answer(request: ScriptedRequest) -> str:
    """Judge where a judge is asked, choose where there is a choice, and answer "Paris" otherwise."""
    choice = re.search(r'"enum":\["(\w+)"', request.prompt)
    if choice is not None:
        return f'"{choice[1]}"'
    return "Score: 9" if "response_to_rate" in request.prompt else "Paris"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a page finds in its namespace."""
    provider = ScriptedProvider(answer)

    async def complete(_: Provider, messages: list[Message], **options: Any) -> LLMResponse:
        return await provider.complete(messages, **options)

    monkeypatch.setattr(Provider, "complete", complete)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    return vars(module)


@contextmanager
def skipping_missing_extras() -> Generator[None]:
    """Leave a page alone that needs an extra which `just matrix` left out on purpose."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not BARE:
            raise
        pytest.skip(str(error))


def page_id(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_blocks_run(page: Path, names: dict[str, Any], anyio_backend: str) -> None:
    for block in blocks(page):
        if block.language == "python" and not block.mark:
            with skipping_missing_extras():
                execute(block, names, anyio_backend)


def test_the_readme_shows_an_example_that_the_checkers_read() -> None:
    (example,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    assert (ROOT / "examples" / "ollama.py").read_text(encoding="utf-8").endswith(f'"""\n\n{example}')
    assert len(example.splitlines()) <= 20


def test_the_readme_s_example_answers(names: dict[str, Any], anyio_backend: str) -> None:
    (example,) = (block for block in blocks(ROOT / "README.md") if block.language == "python")
    execute(example, names, anyio_backend)
    assert [cost.llm_calls for cost in names["outcome"].unwrap().metadata["step_costs"]] == [5, 0, 1]


def test_the_readme_s_comparison_is_the_one_that_the_command_prints() -> None:
    rows: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "peers.py"), run_name="peers")["ROWS"]
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Why this")[2]
    for name, (_, places) in rows.items():
        (cells,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", table, re.MULTILINE)
        found = {place.partition(":")[2] for place in places.values()}
        assert {cell.strip("`") for cell in cells.split(" | ")} == found | (
            {"-"} if len(places) < 5 else set()
        )


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_blocks_that_do_not_run_compile(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python" and block.mark:
            code(block)


@pytest.mark.parametrize("name", SETTINGS)
def test_tables_of_settings_are_complete_and_true(name: str) -> None:
    (table,) = _SETTINGS.findall((ROOT / "docs" / name).read_text(encoding="utf-8"))
    rows = dict(_SETTING.findall(table))
    owner = SETTINGS[name]
    if isinstance(owner, type):
        fields = {
            KEYWORDS.get(field.name, field.name): field.default for field in msgspec.structs.fields(owner)
        }
    else:
        fields = {field.name: field.default for field in inspect.signature(owner).parameters.values()}
    assert set(rows) == set(fields)
    names = {name: getattr(executionkit, name) for name in executionkit.__all__}
    for setting, shown in rows.items():
        assert not shown or eval(shown, dict(names)) == fields[setting], setting


def test_marks_are_known() -> None:
    marks = {block.mark for page in PAGES for block in blocks(page)}
    assert marks <= {"", "no-run", "file"}


def test_shell_blocks_name_recipes_that_exist() -> None:
    recipes = set(_RECIPE.findall((ROOT / "justfile").read_text(encoding="utf-8")))
    for page in EVERYTHING:
        shell = "".join(block.text for block in blocks(page) if block.language in {"bash", "sh"})
        named = set(re.findall(r"(?:^|&& |; )just +([a-z][\w-]*)", shell, re.MULTILINE))
        assert named <= recipes, f"{page.name} names a recipe that is not in the justfile"


def test_the_page_on_quality_names_every_campaign() -> None:
    campaigns: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "long.py"), run_name="long")[
        "CAMPAIGNS"
    ]
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    assert re.findall(r"^just long (\w+) +#", page, re.MULTILINE) == sorted(campaigns)


@pytest.mark.parametrize("page", EVERYTHING, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for found in _LINK.finditer(page.read_text(encoding="utf-8")):
        target, _, heading = found["target"].partition("#")
        if "://" in target:
            continue
        aim = (page.parent / target) if target else page
        assert aim.exists(), f"{page.name} links to {target}, which is not there"
        assert not heading or heading in headings(aim), f"{page.name} links to {target}#{heading}"


_WRITTEN = [
    *EVERYTHING,
    *(ROOT / "SECURITY.md", ROOT / "justfile"),
    *(file for folder in ("executionkit", "examples", "scripts") for file in (ROOT / folder).rglob("*.py")),
]
_INSTALLED = re.compile(r"pip install[^`\n]*?(?<![./])\bexecutionkit\b")


def test_nobody_is_told_to_install_what_has_our_name_and_is_not_ours() -> None:
    told = [file.name for file in _WRITTEN if _INSTALLED.search(file.read_text(encoding="utf-8"))]
    assert told == []
    # In the clone, where a reader stands who has run `just demo`, this is the folder of the package.
    assert [
        file.name for file in _WRITTEN if 'install "./executionkit' in file.read_text(encoding="utf-8")
    ] == []
    assert _INSTALLED.search('pip install "executionkit[mcp]"') is not None
    assert _INSTALLED.search('pip install "./executionkit[mcp]"') is None


@pytest.mark.parametrize("page", EVERYTHING, ids=page_id)
def test_addresses_have_the_shape_of_one(page: Path) -> None:
    for found in _LINK.finditer(page.read_text(encoding="utf-8")):
        if "://" in found["target"]:
            address = urlsplit(found["target"])
            assert address.scheme == "https", f"{page.name} links to {found['target']}"
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", address.netloc), (
                f"{page.name}: {address.netloc}"
            )


def test_contributors_are_sent_to_places_that_are_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Where what goes")[2]
    named = re.findall(r"`((?:executionkit|tests|docs)/[^`]*)`", page.partition("\n## ")[0])
    assert named
    package = Path(executionkit.__file__).parents[1]  # elsewhere than the pages, where a wheel is tested
    roots = {"executionkit": package, "tests": ROOT, "docs": ROOT}
    assert [place for place in named if not (roots[place.partition("/")[0]] / place).exists()] == []


def test_pictures_are_there() -> None:
    for page in EVERYTHING:
        for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name} shows {target}, which is not there"


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, the way GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [page.name for page in PAGES[1:] if page.name != "index.md" and f"({page.name})" not in index]
    assert not missing, f"docs/index.md does not link to {', '.join(missing)}"


def test_every_example_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    examples = sorted((ROOT / "examples").glob("*.py"))
    missing = [file.name for file in examples if f"(../examples/{file.name})" not in index]
    assert examples
    assert not missing, f"docs/index.md does not link to {', '.join(missing)}"
