"""One file per system of the literature; found by `zsad.methods._registry`, never listed by hand."""
