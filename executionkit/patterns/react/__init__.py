"""ReAct: the model calls tools and sees what comes of it, until it answers."""

from executionkit.patterns.react.loop import OnLimit, React, react

__all__ = ["OnLimit", "React", "react"]
