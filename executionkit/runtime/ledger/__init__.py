"""Who pays: accounts, budgets, reservations, prices."""
