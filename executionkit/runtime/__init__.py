"""What runs a stage: contexts, the ledger, calls, time."""
