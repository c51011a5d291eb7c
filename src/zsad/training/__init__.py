"""`zsad train`: the parameters that a method learns."""
