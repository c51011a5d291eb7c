"""Makes the items of training data ready for a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zsad.data.mosaic import Mosaic, load_mosaic
from zsad.data.samples import PreparedSample, load_sample, prepare_sample
from zsad.errors import DataError
from zsad.types import Sample

if TYPE_CHECKING:
    from zsad.images.preparing import Preparation


def prepare_item(item: Any, preparation: Preparation) -> PreparedSample:
    """Makes an item of the training data ready for a batch.

    Args:
        item: a `Sample`, a `Mosaic` of them, or (image, mask, label, class name).
        preparation: size of the network's input and normalisation of its values.

    Returns:
        The image with its mask.

    Raises:
        ImageReadError: image or mask cannot be read.
        DataError: the mask is missing or does not have the size of the image.
    """
    if isinstance(item, Mosaic):
        return load_mosaic(item, preparation)
    if isinstance(item, Sample):
        prepared = load_sample(item, preparation)
    else:
        image, mask, label, class_name = item
        mask = None if mask is None else np.asarray(mask)
        prepared = prepare_sample(image, mask, int(label), str(class_name), preparation)
    if prepared.mask is None:
        raise DataError("an anomalous image of the dataset has no mask, which training needs")
    return prepared
