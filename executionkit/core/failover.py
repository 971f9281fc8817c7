"""Which of several providers to ask: spreading, cooling down, one probe at a time. Time is handed in."""

from collections import deque
from typing import Final

import msgspec

from executionkit.core.checks import check_count, is_finite

__all__ = ["Cooldown", "Standing", "Standings"]


class Cooldown(msgspec.Struct, frozen=True):
    """When a member of a pool is left alone, and for how long.

    Args:
        failures: Failures within `window` after which it is; what is sure to last (no credit, a wrong key, a
            wait that the server asked for) does it at once.
        window: Seconds that a failure counts.
        seconds: Seconds without a request; then a single one probes whether it is well again.

    Raises:
        TypeError: A setting is not a number.
        ValueError: It is not positive.
    """

    failures: int = 3
    window: float = 60.0
    seconds: float = 30.0

    def __post_init__(self) -> None:
        check_count("failures", self.failures)
        for name in ("window", "seconds"):
            value: object = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
            if not (is_finite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number of seconds above 0, not {value}")


class Standing:
    """What is known of one member.

    Attributes:
        in_flight: Requests under way.
        cools_until: When it may be asked again; until it has answered then, one request at a time.
    """

    __slots__ = ("_failures", "cools_until", "in_flight", "is_doubtful", "last_chosen")

    def __init__(self) -> None:
        self.in_flight: int = 0
        self.cools_until: float = 0.0
        self.is_doubtful: bool = False
        self.last_chosen: int = 0
        self._failures: deque[float] = deque()

    def recent_failures(self, now: float, window: float) -> int:
        """Count the failures that still count."""
        while self._failures and self._failures[0] <= now - window:
            self._failures.popleft()
        return len(self._failures)

    def fail(self, now: float) -> None:
        """Count a failure."""
        self._failures.append(now)

    def recover(self) -> None:
        """Forget what went wrong."""
        self._failures.clear()
        self.is_doubtful = False


class Standings:
    """The members of a pool, by their number.

    Args:
        count: How many there are.
        cooldown: When one is left alone.

    >>> standings = Standings(2, Cooldown(failures=1, seconds=30))
    >>> first = standings.choose(0.0)
    >>> standings.note_failure(first, 0.0)
    >>> [standings.choose(at) == first for at in (1.0, 2.0, 31.0, 32.0)]  # one probe once it has cooled down
    [False, False, True, False]
    """

    def __init__(self, count: int, cooldown: Cooldown) -> None:
        self.cooldown: Final = cooldown
        self.members: Final = tuple([Standing() for _ in range(count)])
        self._chosen = 0

    def choose(self, now: float) -> int:
        """Return whom to ask.

        That is a member whose time to be probed has come; else of the healthy ones the one with the fewest
        requests under way, of those the one that failed least lately, of those the one that was not asked for
        the longest time. Where all are cooling down, the one that may be asked soonest.
        """
        number = self._due(now)
        if number is None:
            healthy = [number for number in range(len(self.members)) if self.is_healthy(number)]
            number = min(healthy, key=lambda each: self._rank(each, now)) if healthy else self._soonest()
        self._chosen += 1
        self.members[number].last_chosen = self._chosen
        if self.members[number].is_doubtful:  # whoever comes next waits for what this one finds out
            self.members[number].cools_until = now + self.cooldown.seconds
        return number

    def is_healthy(self, number: int) -> bool:
        """Tell whether a member may be asked like any other."""
        return not self.members[number].is_doubtful

    def has_other(self, number: int, now: float) -> bool:
        """Tell whether another member could be asked now."""
        others = (each for each in range(len(self.members)) if each != number)
        return any(self.is_healthy(each) or self.members[each].cools_until <= now for each in others)

    def begin(self, number: int) -> None:
        """Note that a request is under way."""
        self.members[number].in_flight += 1

    def end(self, number: int) -> None:
        """Note that it is not any more."""
        self.members[number].in_flight -= 1

    def note_success(self, number: int) -> None:
        """Note an answer: the member is well."""
        self.members[number].recover()

    def note_failure(self, number: int, now: float, wait: float | None = None) -> None:
        """Note a failure of a member.

        Args:
            number: Whose.
            now: When.
            wait: Seconds to leave it alone in any case; None where only several failures do that.
        """
        member = self.members[number]
        member.fail(now)
        is_out = member.recent_failures(now, self.cooldown.window) >= self.cooldown.failures
        if is_out or member.is_doubtful or wait is not None:
            member.is_doubtful = True
            least = self.cooldown.seconds if is_out or wait is None else wait
            member.cools_until = max(member.cools_until, now + max(least, wait or 0.0))

    def _due(self, now: float) -> int | None:
        """Return a member that has cooled down and is to be probed."""
        due = [
            number
            for number, member in enumerate(self.members)
            if member.is_doubtful and member.cools_until <= now and not member.in_flight
        ]
        return min(due, key=lambda number: self.members[number].cools_until, default=None)

    def _soonest(self) -> int:
        return min(range(len(self.members)), key=lambda number: self.members[number].cools_until)

    def _rank(self, number: int, now: float) -> tuple[int, int, int]:
        member = self.members[number]
        return member.in_flight, member.recent_failures(now, self.cooldown.window), member.last_chosen
