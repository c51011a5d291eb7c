"""Every file that is not an image: written whole, read safely, fetched and verified."""
