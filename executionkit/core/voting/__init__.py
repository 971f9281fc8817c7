"""Counting votes and knowing when to stop. Pure."""
