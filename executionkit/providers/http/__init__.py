"""Bytes: how a request gets to a server and back."""
