"""Rows of published tables, trained and evaluated from recipes."""
