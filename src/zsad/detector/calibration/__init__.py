"""How thresholds are found."""
