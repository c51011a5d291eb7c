"""From names and files to scores and decisions."""
