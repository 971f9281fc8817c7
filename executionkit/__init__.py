"""ExecutionKit: typed, functional LLM reasoning patterns that say what they cost.

`(consensus(n=5) >> refine(evaluator)).run(provider, prompt)` returns a `Result`; see the README.
"""
