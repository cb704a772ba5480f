"""From network maps to people: pure computation on numpy arrays."""
