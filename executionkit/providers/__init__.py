"""Providers: all that touches a network or a model. Import the one you need from its own module."""
