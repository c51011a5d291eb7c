"""`zsad evaluate`, `report` and `reproduce`: the papers' tables."""
