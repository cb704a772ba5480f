"""Training of Stage I and Stage II."""
