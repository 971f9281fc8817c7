"""The reasoning patterns: one file each, none of which knows another."""
