"""One file a pattern. Patterns know neither each other nor a provider."""
