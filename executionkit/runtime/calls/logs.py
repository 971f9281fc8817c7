"""Records of the standard `logging` about retries, failovers and waits; none is built that nobody reads."""

import sys
from typing import TYPE_CHECKING, Final

from executionkit.errors import ExecutionKitError
from executionkit.events import Path
from executionkit.runtime.calls.endpoints import Endpoint

if TYPE_CHECKING:
    import logging

__all__ = ["log_failover", "log_lesson", "log_retry", "log_wait"]

_LOGGER: Final = "executionkit.calls"
_INFO: Final = 20
_DEBUG: Final = 10


def log_retry(
    place: tuple[Path, int], attempt: int, member: Endpoint, failure: ExecutionKitError, delay: float
) -> None:
    """Say that an attempt failed and another follows."""
    logger = _reader(_INFO)
    if logger is not None:
        told = {"event": "retry", "delay": delay, **_failed(place, attempt, member, failure)}
        logger.info(
            "attempt %d at %s failed with %s; the next follows in %.2f s",
            attempt,
            _named(member),
            type(failure).__name__,
            delay,
            extra=told,
        )


def log_failover(place: tuple[Path, int], attempt: int, member: Endpoint, failure: ExecutionKitError) -> None:
    """Say that an attempt failed and another member of a pool is asked at once."""
    logger = _reader(_INFO)
    if logger is not None:
        logger.info(
            "attempt %d at %s failed with %s; another provider is asked at once",
            attempt,
            _named(member),
            type(failure).__name__,
            extra={"event": "failover", **_failed(place, attempt, member, failure)},
        )


def log_lesson(
    place: tuple[Path, int],
    attempt: int,
    member: Endpoint,
    failure: ExecutionKitError,
    learned: tuple[str, ...],
) -> None:
    """Say that a server refused a field and is asked in another way."""
    logger = _reader(_DEBUG)
    if logger is not None:
        told = {"event": "lesson", "learned": learned, **_failed(place, attempt, member, failure)}
        logger.debug(
            "%s refused attempt %d; it is asked in another way (%s)",
            _named(member),
            attempt,
            ", ".join(learned),
            extra=told,
        )


def log_wait(place: tuple[Path, int], reason: str, delay: float | None = None) -> None:
    """Say that a call waits: for a rate limit, or for calls in flight to make room in the budget."""
    logger = _reader(_DEBUG if delay is None else _INFO)
    if logger is not None:
        told = {"event": "wait", "reason": reason, "delay": delay, **_at(place)}
        if delay is None:
            logger.debug("a call waits for those in flight to make room in the budget", extra=told)
        else:
            logger.info("a call waits %.2f s for the rate limit", delay, extra=told)


def _reader(level: int) -> "logging.Logger | None":
    """Return the logger where somebody reads records of a level; it is not imported for this."""
    if "logging" not in sys.modules:
        return None
    import logging

    logger = logging.getLogger(_LOGGER)
    return logger if logger.isEnabledFor(level) else None


def _failed(
    place: tuple[Path, int], attempt: int, member: Endpoint, failure: ExecutionKitError
) -> dict[str, object]:
    said = failure.metadata
    return {
        **_at(place),
        "attempt": attempt,
        "model": member.model,
        "server": member.server,
        "error": type(failure).__name__,
        "status": said.get("status"),
        "request_id": said.get("request_id"),
    }


def _at(place: tuple[Path, int]) -> dict[str, object]:
    path, ordinal = place
    return {"path": "/".join(map(str, path)), "ordinal": ordinal}


def _named(member: Endpoint) -> str:
    """Name whom an attempt asked, as far as the provider tells."""
    return " at ".join(filter(None, (member.model, member.server))) or member.kind
