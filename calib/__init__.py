"""Cameras: projection, calibration and camera files."""
