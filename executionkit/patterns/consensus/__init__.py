"""Consensus: ask several times and take the answer given most often."""

from executionkit.patterns.consensus.vote import Consensus, consensus

__all__ = ["Consensus", "consensus"]
