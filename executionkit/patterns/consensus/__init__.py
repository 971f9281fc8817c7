"""Consensus: ask several times and take the answer given most often, or the one most like the others."""

from executionkit.patterns.consensus.selection import Select, select
from executionkit.patterns.consensus.vote import Consensus, consensus

__all__ = ["Consensus", "Select", "consensus", "select"]
