"""`zsad predict`: many images in; tables, overlays and a page out."""
