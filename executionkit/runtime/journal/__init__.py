"""What a run takes from its journal, and what it leaves there."""
