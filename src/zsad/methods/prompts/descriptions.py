"""AA-CLIP's descriptions of the objects of its datasets, which its prompts hold instead of names.

They come from looking at the images of the target, so a comparison with methods that see only the name should
say so.

Source: AA-CLIP (2503.06661), the authors' code. The description of BTAD's category 01 is shortened.
"""

from __future__ import annotations

DESCRIPTIONS = {
    # MVTec AD
    "bottle": "dark bottle",
    "cable": "top view of three cables",
    "capsule": "black and orange capsule",
    "carpet": "gray carpet",
    "grid": "metal or plastic mesh",
    "hazelnut": "single brown hazelnut",
    "leather": "brown leather",
    "metal nut": "metal nut which has four notched edges",
    "pill": "oval white pill with small red speckles and the letters 'FF' engraved",
    "screw": "screw",
    "tile": "speckled tile surface",
    "transistor": "a three-legged transistor placed vertically",
    "toothbrush": "toothbrush head",
    "wood": "wood surface",
    "zipper": "a black zipper",
    # VisA
    "candle": "candle",
    "capsules": "capsules",
    "cashew": "cashew nut",
    "chewinggum": "chewing gum",
    "fryum": "wheel-shaped fryum snack",
    "macaroni1": "orange macaroni",
    "macaroni2": "scattered yellow macaroni",
    "pcb1": "dual ultrasonic distance sensor pcb module",
    "pcb2": "integrated circuits board",
    "pcb3": "infrared sensor pcb module",
    "pcb4": "battery charging pcb module",
    "pipe fryum": "pipe-shaped fryum",
    # MPDD
    "connector": "metal clamps with black adjustment knobs",
    "tubes": "scattered metal objects",
    "metal plate": "blue rectangular metal plate with a notch on one side",
    "bracket white": "white, elongated triangular metal bracket with a smooth, matte finish",
    "bracket brown": (
        "brown L-shaped metal bracket with smooth, glossy finish and multiple mounting holes along its arms"
    ),
    "bracket black": "black ornamental metal bracket with spiral design attached to a rectangular frame",
    # BTAD
    "01": "bright concentric rings in neon yellow and blue on a dark blue background",
    "02": "vertical fabric lines in warm, dusty pink and beige tones",
    "03": "oval concentric circular rings in gradient shades of blue and white",
    # Medical datasets
    "brain": "scan",
    "liver": "scan",
    "retina": "scan",
    "colon": "colon endoscopy image",
    "clinicdb": "colon endoscopy image",
    "colondb": "colon endoscopy image",
    "cvc-300": "colon endoscopy image",
    "kvasir": "colon endoscopy image",
}


def description(class_name: str) -> str:
    """What AA-CLIP's authors call an object; any other name stays as it is.

    Args:
        class_name: name of a category, with underscores or spaces.

    Example:
        >>> description("metal_nut"), description("my part")
        ('metal nut which has four notched edges', 'my part')
    """
    return DESCRIPTIONS.get(class_name.strip().replace("_", " ").lower(), class_name)
