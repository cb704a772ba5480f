"""Rendered people with exact 2D and 3D truth."""
