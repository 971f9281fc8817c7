"""Anthropic's Messages on the wire: a conversation in OpenAI's format there, an answer back. Pure."""
