"""From a few good images to a detector that decides."""
