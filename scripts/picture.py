"""Draw the progress view as it stands in the middle of a run, and at its end, as one picture.

    python scripts/picture.py docs/progress.svg

The run is that of examples/quickstart.py, on the embedded model.
"""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from executionkit import TokenUsage
from executionkit.events import CallStarted, Event
from executionkit.progress import Progress
from executionkit.providers.local import LocalProvider

ROOT = Path(__file__).parent.parent
_FONTS = re.compile(r"@font-face \{.*?\}\n", re.DOTALL)
"""rich names fonts at an address of a third party; whoever looks at the picture has one of his own."""


def main(target: Path) -> None:
    example: dict[str, Any] = runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    progress = Progress(live=True)
    console = Console(record=True, width=100, file=sys.stderr, force_terminal=True)
    begun = 0

    def watch(event: Event) -> None:
        nonlocal begun
        progress(event)
        begun += isinstance(event, CallStarted)
        if begun == 7 and isinstance(event, CallStarted):
            console.print("... while it runs", progress, "", sep="\n", highlight=False)

    with LocalProvider(seed=1) as provider:
        budget = TokenUsage(llm_calls=12)
        example["pipeline"].run_sync(provider, example["PROMPT"], max_cost=budget, trace=watch)
    console.print("... and when it is done", progress, sep="\n", highlight=False)
    drawn = console.export_svg(title="python examples/quickstart.py", unique_id="progress")
    target.write_text(_FONTS.sub("", drawn), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
