"""Types as JSON Schema, and the way back. Pure."""
