"""`zsad serve`: an HTTP API over anything that has `predict`, a detector or an exported bundle."""
