"""Weight files; no code."""
