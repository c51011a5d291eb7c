"""Datasets, their layouts on disk, samples ready for a batch, and synthetic anomalies."""
