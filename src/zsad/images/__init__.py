"""Reads image files and arrays as RGB, and draws and saves heat maps; needs no torch."""
