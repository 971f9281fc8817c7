"""Reaching models: over HTTP, in process, and from a script for tests."""
