"""Datasets, their layouts, transforms and synthetic anomalies."""
