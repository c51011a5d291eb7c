"""The files of learnt weights that the methods' own authors published: where they lie and how to know them.

No authors give checksums. A SHA-256 stands here where at least two independent projects pin the same one for
the file, a size where one of them gives it; otherwise they are None, and a file that was fetched cannot be
verified. GlocalCLIP's authors have published no weights.
Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from zsad.backbones.catalog import (
    CLIP_MEAN,
    CLIP_STD,
)
from zsad.types import WeightRecord

PAPERS_BACKBONE = "ViT-L-14-336"
PAPERS_SIZE = 518
# The commit that the projects pin whose checksums are given below.
ANOMALYCLIP_FILES = "https://raw.githubusercontent.com/zqhang/AnomalyCLIP/3911738c0867544f545a076ad78f3f11d9ecbfdf/checkpoints"
APRIL_GAN_FILES = "https://raw.githubusercontent.com/ByChelsea/VAND-APRIL-GAN/master/exps/pretrained"
# AdaCLIP's README links Google Drive, which programs cannot fetch from; the authors' demo has the same files.
ADACLIP_FILES = "https://huggingface.co/spaces/Caoyunkang/AdaCLIP/resolve/main/weights"
ADACLIP_PAGE = "https://github.com/caoyunkang/AdaCLIP#weight-preparation"
MVTEC = "MVTec AD's test images (CC BY-NC-SA 4.0)"
VISA = "VisA's test images (CC BY 4.0)"
# By name, so that an evaluation on one of them is refused.
ADACLIPS_SETS = (
    "MVTec AD, VisA, MPDD, BTAD, KolektorSDD, DAGM 2007, DTD-Synthetic, HeadCT, BrainMRI, Br35H, ISIC, "
    "CVC-ColonDB, CVC-ClinicDB, TN3K"
)
CODE_LICENCE = "MIT, as the authors' code; none is stated for the weights by themselves"


@dataclass(frozen=True)
class PublishedWeights:
    """A file of a method's authors.

    Attributes:
        method: registry name.
        record: where the file is; `record.name` is what a user types for `checkpoint=`.
        page: where a person can get it, if `record.source` does not answer.
    """

    method: str
    record: WeightRecord
    page: str


def _published(
    method: str,
    trained_on: str,
    source: str,
    page: str,
    auxiliary_data: str,
    *,
    sha256: str | None = None,
    size: int | None = None,
    notes: str = "",
) -> PublishedWeights:
    record = WeightRecord(
        name=f"{method}-trained-on-{trained_on}",
        source=source,
        image_size=PAPERS_SIZE,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        activation="quick_gelu" if method == "anomalyclip" else "gelu",
        licence=CODE_LICENCE,
        bytes=size,
        sha256=sha256,
        auxiliary_data=auxiliary_data,
        backbone=PAPERS_BACKBONE,
        notes=notes,
    )
    return PublishedWeights(method, record, page)


PUBLISHED = (
    _published(
        "anomalyclip",
        "visa",
        f"{ANOMALYCLIP_FILES}/9_12_4_multiscale/epoch_15.pth",
        "https://github.com/zqhang/AnomalyCLIP",
        VISA,
        sha256="94ce202da3e6486a864b904fdfed5057de75846c5834e446fd1d2fe7f97acb44",
        size=22_631_975,
        notes="the paper's numbers on MVTec AD",
    ),
    _published(
        "anomalyclip",
        "mvtec",
        f"{ANOMALYCLIP_FILES}/9_12_4_multiscale_visa/epoch_15.pth",
        "https://github.com/zqhang/AnomalyCLIP",
        MVTEC,
        sha256="415c5dcb52668b8c33fb9c1a351c686d632b919df5b384d63fa9ce7a2338ced4",
        size=22_631_975,
        notes="the paper's numbers on all other sets; its folder is named after VisA, which it is tested on",
    ),
    _published(
        "adaclip",
        "mvtec-colondb",
        f"{ADACLIP_FILES}/pretrained_mvtec_colondb.pth",
        ADACLIP_PAGE,
        f"{MVTEC}, CVC-ColonDB",
        sha256="be51a42c052bd4cf060e54f503a1f5d0b2a3b899bc8dc2e243042f18b215427e",
        notes="named as the file is; the authors' table of weights says MVTec AD and ClinicDB",
    ),
    _published(
        "adaclip",
        "visa-clinicdb",
        f"{ADACLIP_FILES}/pretrained_visa_clinicdb.pth",
        ADACLIP_PAGE,
        f"{VISA}, CVC-ClinicDB",
        sha256="3deabbbaf1e412cfdfcb42923a500b986f4b9ee96ccbc7a735d89dbc87df44c8",
        notes="named as the file is; the authors' table of weights says VisA and ColonDB",
    ),
    _published(
        "adaclip",
        "all",
        f"{ADACLIP_FILES}/pretrained_all.pth",
        ADACLIP_PAGE,
        ADACLIPS_SETS,
        sha256="33e8d3db1cb4aab030866b8b70a46e10aa27ebf2c23b5463cb07f2574addd98c",
        notes="for use, not for comparisons: it has seen all 14 sets of the paper",
    ),
    _published(
        "april_gan",
        "mvtec",
        f"{APRIL_GAN_FILES}/mvtec_pretrained.pth",
        "https://github.com/ByChelsea/VAND-APRIL-GAN",
        MVTEC,
        notes="no checksum is known; the paper's numbers on VisA",
    ),
    _published(
        "april_gan",
        "visa",
        f"{APRIL_GAN_FILES}/visa_pretrained.pth",
        "https://github.com/ByChelsea/VAND-APRIL-GAN",
        VISA,
        notes="no checksum is known; the paper's numbers on MVTec AD",
    ),
)
