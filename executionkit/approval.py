"""Having a tool call approved: what the hook sees, and what it may say."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from executionkit.core.frozen import freeze_mapping
from executionkit.core.usage import TokenUsage

__all__ = ["Approval", "Approve", "Decision", "Deny", "Edit", "Proposal", "Stop"]


class Proposal(msgspec.Struct, frozen=True):
    """A tool call that waits for approval. Its arguments are valid.

    Args:
        name: The tool's name.
        arguments: The arguments as the model gave them.
        cost: What the loop has spent so far.
    """

    name: str
    arguments: Mapping[str, Any]
    cost: TokenUsage


class Approve(msgspec.Struct, frozen=True):
    """Make the call."""


class Deny(msgspec.Struct, frozen=True):
    """Do not make the call; the model is told, and goes on.

    Args:
        reason: What the model is told.
    """

    reason: str = "the user refused this call"


class Edit(msgspec.Struct, frozen=True):
    """Make the call with other arguments; they are checked like the model's.

    Args:
        arguments: The arguments to use.
    """

    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "arguments", freeze_mapping(self.arguments))


class Stop(msgspec.Struct, frozen=True):
    """Make no call of this round and end the loop with a `StoppedError`.

    Args:
        reason: What the error says.
    """

    reason: str = "the approval hook stopped the loop"


Decision: TypeAlias = Approve | Deny | Edit | Stop
"""What an approval hook may answer."""

Approval: TypeAlias = Callable[[Proposal], Awaitable[Decision]]
"""An approval hook; if it raises, or answers anything but a `Decision`, the call is denied."""
