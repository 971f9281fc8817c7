"""The chat format on the wire. Pure but for `streaming`."""
