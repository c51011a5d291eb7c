"""One file per system of the literature; found by `zsad.registry`, never listed by hand."""
