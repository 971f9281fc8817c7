"""What several stages take together: in turn, at once, or one of them. Pure arithmetic on reaches."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from executionkit.core.bounds import AS_JSON, Given, Lessons, Reach

__all__ = [
    "at_once",
    "chained",
    "either",
    "in_turn",
    "one_of",
    "paired",
    "so_many_at_once",
]


def in_turn(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of one after the other; the value is the last one's."""
    last = reaches[-1] if reaches else Reach()
    return _sum(reaches, depth=sum([reach.depth for reach in reaches]), value=last)


def chained(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of one after the other, each with the value of the one before."""
    handed = [one.least_said if other.needs_text else one.least_output for one, other in pairwise(reaches)]
    last = reaches[-1]
    return replace(
        in_turn(reaches),
        least_output=sum(handed) + last.least_output,
        least_said=sum(handed) + last.least_said,
        needs_text=reaches[0].needs_text,
    )


def at_once(reaches: Sequence[Reach], given: Given) -> Reach:
    """Return the reach of several at once; within a budget they may have to wait for each other."""
    depths = [reach.depth for reach in reaches]
    whole = _sum(reaches, depth=sum(depths) if given.is_limited else max(depths), value=paired(reaches))
    return replace(whole, lessons=_together(reaches, at_once=True), ahead=_ahead(reaches, given))


def paired(reaches: Sequence[Reach]) -> Reach:
    """Return how long the values of these are together; of a pair within a pair nobody knows."""
    if not all(reach.is_text for reach in reaches):
        return Reach(is_text=False, why_value=AS_JSON)
    value = sum(reach.value for reach in reaches)
    why = next((reach.why_value for reach in reaches if reach.why_value), "")
    return Reach(value=value, is_text=False, why_value=why)


def so_many_at_once(reaches: Sequence[Reach], most: int, given: Given) -> Reach:
    """Return the reach of stages, so many at once, that are alike but for the length of their inputs."""
    count, longest = len(reaches), max([reach.depth for reach in reaches], default=0)
    rounds = count if given.is_limited else min(count, max(1, count - most + 1))
    whole = _sum(reaches, depth=longest * rounds, value=Reach())
    under_way = _together(reaches[:most], at_once=True)
    lessons = {who: replace(each, forms=whole.lessons[who].forms) for who, each in under_way.items()}
    return replace(whole, lessons=lessons, ahead=_ahead(reaches[:most], given))


def either(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of several, tried in turn until one answers."""
    longest = max(reaches, key=lambda reach: reach.value)
    whole = _sum(reaches, depth=sum(reach.depth for reach in reaches), value=longest)
    return replace(
        whole,
        least_calls=min(reach.least_calls for reach in reaches),
        least_output=min(reach.least_output for reach in reaches),
        least_said=min(reach.least_said for reach in reaches),
        needs_text=all(reach.needs_text for reach in reaches),
        is_text=all(reach.is_text for reach in reaches),
    )


def one_of(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of one of several, whichever it is."""
    return Reach(
        least_calls=min(reach.least_calls for reach in reaches),
        calls=max(reach.calls for reach in reaches),
        input=max(reach.input for reach in reaches),
        output=max(reach.output for reach in reaches),
        usd=max(reach.usd for reach in reaches),
        **_largest_call(reaches),
        depth=max(reach.depth for reach in reaches),
        lessons=_together(reaches),
        proofs=_largest([reach.proofs for reach in reaches]),
        ahead=_largest([reach.ahead for reach in reaches]),
        is_counted=all(reach.is_counted for reach in reaches),
        value=max(reach.value for reach in reaches),
        unknown=tuple(why for reach in reaches for why in reach.unknown),
    )


def _sum(reaches: Sequence[Reach], *, depth: float, value: Reach) -> Reach:
    least_output = sum([reach.least_output for reach in reaches])
    return Reach(
        least_calls=sum([reach.least_calls for reach in reaches]),
        least_output=least_output,
        least_said=least_output,
        needs_text=any(reach.needs_text for reach in reaches),
        calls=sum([reach.calls for reach in reaches]),
        input=sum([reach.input for reach in reaches]),
        output=sum([reach.output for reach in reaches]),
        usd=sum([reach.usd for reach in reaches]),
        **_largest_call(reaches),
        depth=depth,
        lessons=_together(reaches),
        proofs=_largest([reach.proofs for reach in reaches if reach.proofs]),
        ahead=_largest([reach.ahead for reach in reaches if reach.ahead]),
        is_counted=all(reach.is_counted for reach in reaches),
        value=value.value,
        is_text=value.is_text,
        unknown=tuple([why for reach in reaches for why in reach.unknown]),
        why_value=value.why_value,
    )


def _largest_call(reaches: Sequence[Reach]) -> dict[str, Any]:
    """Return the fields that say what one call takes at the most."""
    return {
        "largest_input": max([reach.largest_input for reach in reaches], default=0),
        "largest_output": max([reach.largest_output for reach in reaches], default=0),
        "largest_usd": max([reach.largest_usd for reach in reaches], default=0),
    }


def _ahead(reaches: Sequence[Reach], given: Given) -> Mapping[int, float]:
    """Return the calls that those made at once wait for: the first finds out what its server takes."""
    if given.is_limited:  # all are counted one after the other
        return {}
    tried = Counter([who for reach in reaches for who in reach.proofs])
    proofs = _largest([reach.proofs for reach in reaches])
    return _largest(
        [*[reach.ahead for reach in reaches], {who: proofs[who] for who, times in tried.items() if times > 1}]
    )


def _largest(figures: Sequence[Mapping[int, float]]) -> Mapping[int, float]:
    """Return the largest figure of each server."""
    largest: dict[int, float] = {}
    for each in figures:
        for who, figure in each.items():
            largest[who] = max(figure, largest.get(who, 0))
    return largest


def _together(reaches: Iterable[Reach], *, at_once: bool = False) -> Mapping[int, Lessons]:
    """Return what has to be learned where the same servers are asked one time after the other, or at once."""
    by_server: dict[int, list[Lessons]] = {}
    for reach in reaches:
        for who, lessons in reach.lessons.items():
            by_server.setdefault(who, []).append(lessons)
    joined = sum if at_once else max
    return {
        who: Lessons(
            {name: joined([each.widths.get(name, 0) for each in found]) for name in _names(found)},
            sum([each.forms for each in found]),
            joined([each.form_width for each in found]),
        )
        for who, found in by_server.items()
    }


def _names(found: Iterable[Lessons]) -> Iterable[str]:
    return dict.fromkeys([name for each in found for name in each.widths])
