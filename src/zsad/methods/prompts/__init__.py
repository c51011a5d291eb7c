"""Prompt ensembles and learnt prompts."""
