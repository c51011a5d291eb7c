from zsad.images.drawing import draw_contour as draw_contour
from zsad.images.drawing import draw_mask as draw_mask
from zsad.images.drawing import heat_map as heat_map
from zsad.images.drawing import overlay as overlay
from zsad.images.finding import find_images as find_images
from zsad.images.preparing import to_array as to_array
from zsad.images.reading import read_image as read_image
from zsad.images.saving import read_map as read_map
