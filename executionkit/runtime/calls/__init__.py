"""One call of a model: attempts, retries, what a server takes, what traces are told."""
