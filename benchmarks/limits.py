"""Calls at once against a server with a hidden limit: `python benchmarks/limits.py [SECONDS]`.

Three ways to say how many: `Adaptive()`, a fixed number, and the rule of inspect_ai's `AdaptiveConcurrency`
with its defaults, as its documentation and its source (0.3.285) tell it. Printed are the part of the limit
that was used, the part of the calls that was refused with a 429, and, after the limit was cut to a tenth, the
seconds until a second had at least nine tenths of the new one and at most one refusal in fifty calls. First
in made-up time, then over HTTP against a server in a process of its own; that takes an idle machine to tell.
"""

import argparse
import asyncio
import heapq
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
from typing_extensions import override

from executionkit import Provider, RetryConfig, complete
from executionkit.core.window import Adaptive, Window
from executionkit.runtime.calls import windows

LATENCY: Final = 0.5
"""Seconds that an answer takes on average; a refusal takes a hundredth of that."""
STEP: Final = 0.25
"""Seconds of a slice in which calls are counted."""

_PART: Final = 0.6
"""Of a run over HTTP, until the cut."""
_RAMP: Final = 3.0
"""Seconds in which a way finds the limit out."""

Slices = list[tuple[int, int]]
"""Calls that were answered and that were refused, slice by slice."""


class Limit(Protocol):
    """How many calls there may be at once."""

    in_flight: int

    @property
    def size(self) -> int: ...

    @property
    def has_room(self) -> bool: ...
    def closed_for(self, now: float) -> float: ...
    def enter(self) -> None: ...
    def send(self) -> int: ...
    def left(self) -> None: ...
    def answered(self, call: int) -> None: ...
    def refused(self, call: int, now: float, retry_after: float | None = None) -> None: ...


class Fixed:
    """A number."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.in_flight = 0

    @property
    def has_room(self) -> bool:
        """Whether another call may go."""
        return self.in_flight < self.size

    def closed_for(self, now: float) -> float:
        """Return 0: what the server wishes is for each call alone to heed."""
        return 0.0

    def enter(self) -> None:
        """Count a call."""
        self.in_flight += 1

    def send(self) -> int:
        """Return nothing of use."""
        return 0

    def left(self) -> None:
        """Count a call that is over."""
        self.in_flight -= 1

    def answered(self, call: int) -> None:
        """Count an answer."""
        self.in_flight -= 1

    def refused(self, call: int, now: float, retry_after: float | None = None) -> None:
        """Count a refusal."""
        self.in_flight -= 1


class Inspect(Fixed):
    """The rule of inspect_ai: 10 to 100 calls, 20 at first.

    After as many answers in a row as there may be calls, of which four fifths were in use, their number
    doubles, and after the first refusal grows by a twentieth. A refusal cuts it to four fifths, at most every
    15 s, and what is answered within those does not count. There the sizes are rounded to numbers that read
    well; not so here.

    Args:
        bounds: Nothing.
        clock: Tells the time.
    """

    def __init__(self, bounds: object = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(20)
        self._clock = clock
        self._clean = self._peak = 0
        self._cools_until = -math.inf
        self._was_refused = False

    @override
    def enter(self) -> None:
        """Count a call."""
        super().enter()
        if self._clock() >= self._cools_until:
            self._peak = max(self._peak, self.in_flight)

    @override
    def answered(self, call: int) -> None:
        """Count an answer."""
        super().answered(call)
        if self._clock() < self._cools_until:
            return
        self._clean += 1
        if self._clean < max(self.size, 4):
            return
        is_used = self._peak >= 0.8 * self.size
        self._clean = self._peak = 0
        if is_used:
            more = max(1, round(self.size * 0.05)) if self._was_refused else self.size
            self.size = min(self.size + more, 100)

    @override
    def refused(self, call: int, now: float, retry_after: float | None = None) -> None:
        """Count a refusal."""
        super().refused(call, now, retry_after)
        self._clean = self._peak = 0
        self._was_refused = True
        if now >= self._cools_until:
            self.size = max(int(self.size * 0.8), 10)
            self._cools_until = now + 15.0


def played(
    make: Callable[[Callable[[], float]], Limit], room: Callable[[float], int], seconds: float
) -> Slices:
    """Return what a server answered and refused in made-up time.

    A row whose call was refused backs off for up to a second, and keeps its place meanwhile.
    """
    draw = random.Random(1)
    slices = [[0, 0] for _ in range(int(seconds / STEP) + 1)]
    pending: list[tuple[float, int, str]] = []
    now, inside, waiting = 0.0, 0, 0
    window = make(lambda: now)
    while now < seconds:
        while window.in_flight + waiting < window.size and not window.closed_for(now):
            window.enter()
            is_taken = inside < room(now)
            inside += is_taken
            delay = draw.uniform(0.5, 1.5) * LATENCY if is_taken else LATENCY / 100
            heapq.heappush(pending, (now + delay, window.send(), "answered" if is_taken else "refused"))
        now, call, how = heapq.heappop(pending)
        if how == "waited":
            waiting -= 1
            continue
        slices[min(int(now / STEP), len(slices) - 1)][how == "refused"] += 1
        if how == "answered":
            inside -= 1
            window.answered(call)
        else:
            waiting += 1
            window.refused(call, now)
            heapq.heappush(pending, (now + draw.uniform(0, 1), 0, "waited"))
    return [(answered, refused) for answered, refused in slices]


def cut_down(room: int, now: float) -> int:
    """Return how many calls there may be at once: a tenth after half a minute."""
    return room if now < 30 else room // 10


class Figures:
    """What came of a way.

    Args:
        slices: What was counted.
        rooms: The limit in each slice.
        cut: The slice of the cut.
    """

    def __init__(self, slices: Slices, rooms: list[int], cut: int) -> None:
        def used(first: int, last: int) -> float:
            most = sum(rooms[first:last]) * STEP / LATENCY
            return sum(answered for answered, _ in slices[first:last]) / most

        def refused(first: int, last: int) -> float:
            counted = slices[first:last]
            return sum(no for _, no in counted) / max(1, sum(yes + no for yes, no in counted))

        last = len(rooms)
        a_second = round(1 / STEP)
        good = (
            at
            for at in range(cut, last - a_second + 1)
            if used(at, at + a_second) >= 0.9 and refused(at, at + a_second) <= 0.02
        )
        found = next(good, None)
        begun = round(_RAMP / STEP)
        late = "not within the run"
        self.line = (
            f"used {used(0, begun):4.0%} in the first {_RAMP:.0f} s, {used(begun, cut):4.0%} then; "
            f"refused {refused(0, cut):5.1%}, {refused(0, last):5.1%} with those after the cut; "
            f"recovered {late if found is None else f'in {(found - cut) * STEP:.2f} s'}"
        )


@contextmanager
def served() -> Generator[str]:
    """Run the server in another process, and yield its address."""
    command = [sys.executable, str(Path(__file__).with_name("limited_server.py")), str(LATENCY), str(STEP)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def endless() -> Iterator[int]:
    """Yield rows."""
    return iter(count())


async def over_http(url: str, how: int | Adaptive, room: int, seconds: float) -> Slices:
    """Ask a server whose limit is cut to a tenth in the middle; return what it counted."""
    async with httpx.AsyncClient(base_url=url) as control, Provider(f"{url}/v1", "m") as provider:
        await control.get(f"/room/{room}")
        await control.get("/begin")
        batch = complete().over(
            (f"row {number}" for number in endless()),
            provider,
            key=str,
            max_concurrency=how,
            retry=RetryConfig(max_retries=20),
        )
        cut_at, ends_at = time.monotonic() + seconds * _PART, time.monotonic() + seconds
        is_cut = False
        async with batch:
            async for _ in batch:
                now = time.monotonic()
                if now >= cut_at and not is_cut:
                    is_cut = True
                    await control.get(f"/room/{max(1, room // 10)}")
                if now >= ends_at:
                    break
            counted: dict[str, tuple[int, int]] = json.loads((await control.get("/counts")).content)
    return [counted.get(str(at), (0, 0)) for at in range(round(seconds / STEP))]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=15.0, help="of each way over HTTP")
    seconds: float = parser.parse_args().seconds
    ways: list[tuple[str, Callable[[Callable[[], float]], Limit]]] = [
        ("Adaptive()", lambda clock: Window(Adaptive())),
        ("fixed, 8", lambda clock: Fixed(8)),
        ("fixed, 64", lambda clock: Fixed(64)),
        ("inspect's rule", lambda clock: Inspect(clock=clock)),
    ]
    for room in (50, 200):
        print(f"in made-up time, 60 s, room for {room} calls at once, then for {room // 10}:")
        slices, cut = round(60 / STEP), round(30 / STEP)
        rooms = [room if at < cut else room // 10 for at in range(slices)]
        for name, make in ways:
            counted = played(make, partial(cut_down, room), 60.0)
            print(f"  {name:<15} {Figures(counted, rooms, cut).line}")
    room, slices = 60, round(seconds / STEP)
    rooms = [room if at < round(slices * _PART) else room // 10 for at in range(slices)]
    print(f"over HTTP, {seconds:.0f} s, room for {room} calls at once, then for {room // 10}:")
    with served() as url:
        for name, _ in ways:
            how = {"fixed, 8": 8, "fixed, 64": 64}.get(name, Adaptive())
            gates: Any = windows  # where the run makes one for each server
            gates.Window = Inspect if name.startswith("inspect") else Window
            counted = asyncio.run(over_http(url, how, room, seconds))
            print(f"  {name:<15} {Figures(counted, rooms, round(slices * _PART)).line}", flush=True)


if __name__ == "__main__":
    main()
