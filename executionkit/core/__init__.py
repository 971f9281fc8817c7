"""Pure decisions: values in, values out; no event loop, no network, no `returns`."""
