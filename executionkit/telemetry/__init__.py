"""What `executionkit.otel` says, and by which names; needs the extra `otel`."""
