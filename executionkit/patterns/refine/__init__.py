"""Refinement: draft, score, improve the best draft, until it is good enough or stops getting better."""

from executionkit.patterns.refine.evaluation import Evaluation, Evaluator, ValueEvaluator
from executionkit.patterns.refine.loop import Draft, Refine, refine

__all__ = ["Draft", "Evaluation", "Evaluator", "Refine", "ValueEvaluator", "refine"]
