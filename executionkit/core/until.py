"""Until when a call may wait: what a run tells the provider that it asks."""

from contextvars import ContextVar
from typing import Final

__all__ = ["call_ends_at"]

call_ends_at: Final[ContextVar[float | None]] = ContextVar("call_ends_at", default=None)
"""The event loop's time at which the run is over that makes the call; None where there is no deadline.

The run ends the call then anyway. A provider that knows beforehand that it would have to wait for longer can
say so at once.
"""
