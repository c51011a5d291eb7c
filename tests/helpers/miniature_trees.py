"""Builds miniature copies of the datasets, each with the tree of its download and tiny images.

`TREES` maps a name of the catalogue (or "NAME, which version") to a function that builds the tree.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 8)


def image(path: Path, size=SIZE, mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 7 if mode == "L" else (7, 8, 9)).save(path)
    return path


def mask(path: Path, size=SIZE, *, empty=False, value=255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.zeros((size[1], size[0]), dtype=np.uint8)
    if not empty:
        levels[2:5, 3:9] = value
    Image.fromarray(levels).save(path)
    return path


def mvtec(root: Path, categories=("bottle", "metal_nut")) -> Path:
    for category in categories:
        image(root / category / "train/good/000.png")
        for name in ("000", "001"):
            image(root / category / f"test/good/{name}.png")
        image(root / category / "test/broken_large/000.png")
        mask(root / category / "ground_truth/broken_large/000_mask.png")
    (root / "license.txt").write_text("CC")
    (root / "readme.txt").write_text("read me")
    return root


def visa(root: Path) -> Path:
    rows = [("object", "split", "label", "image", "mask")]
    for category in ("candle", "pipe_fryum"):
        data = f"{category}/Data"
        for number, split in enumerate(("train", "test")):
            name = f"{data}/Images/Normal/{number:04d}.JPG"
            image(root / name)
            rows.append((category, split, "normal", name, ""))
        image(root / f"{data}/Images/Anomaly/000.JPG")
        mask(root / f"{data}/Masks/Anomaly/000.png", value=3)
        rows.append(
            (category, "test", "anomaly", f"{data}/Images/Anomaly/000.JPG", f"{data}/Masks/Anomaly/000.png")
        )
        (root / category / "image_anno.csv").write_text("image,label,mask\n")
    (root / "split_csv").mkdir()
    for name in ("1cls.csv", "2cls_fewshot.csv", "2cls_highshot.csv"):
        with (root / "split_csv" / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return root


def visa_rearranged(root: Path) -> Path:
    for category in ("candle", "pipe_fryum"):
        image(root / category / "train/good/0000.JPG")
        image(root / category / "test/good/0001.JPG")
        image(root / category / "test/bad/000.JPG")
        mask(root / category / "ground_truth/bad/000.png")
    return root


def btad(root: Path) -> Path:
    base = root / "BTech_Dataset_transformed"
    for category, suffix in (("01", "bmp"), ("02", "png"), ("03", "bmp")):
        image(base / category / f"train/ok/0000.{suffix}")
        image(base / category / f"test/ok/0001.{suffix}")
        image(base / category / f"test/ko/0000.{suffix}")
        mask(base / category / f"ground_truth/ko/0000.{'png' if category != '03' else 'bmp'}")
    return root


def dtd(root: Path) -> Path:
    for category in ("Blotchy_099", "Woven_001"):
        image(root / category / "train/good/000.png")
        image(root / category / "test/good/000.png")
        image(root / category / "test/bad/001.png")
        mask(root / category / "ground_truth/bad/001_mask.png")
    return root


def loco(root: Path) -> Path:
    base = root / "breakfast_box"
    image(base / "train/good/000.png")
    image(base / "validation/good/000.png")
    image(base / "test/good/000.png")
    for defect in ("logical_anomalies", "structural_anomalies"):
        image(base / f"test/{defect}/000.png")
        mask(base / f"ground_truth/{defect}/000/000.png")
    second = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
    second[7, 11] = 255
    Image.fromarray(second).save(base / "ground_truth/logical_anomalies/000/001.png")
    (base / "defects_config.json").write_text("[]")
    return root


def mvtec2(root: Path) -> Path:
    base = root / "sheet_metal"
    image(base / "train/good/000_regular.png")
    image(base / "validation/good/000_regular.png")
    image(base / "test_public/good/000_regular.png")
    image(base / "test_public/bad/000_regular.png")
    mask(base / "test_public/ground_truth/bad/000_regular_mask.png")
    image(base / "test_private/000_regular.png")
    image(base / "test_private_mixed/000_mixed.png")
    return root


def real_iad(root: Path) -> Path:
    for category in ("audiojack", "toy_brick"):
        for size in ("256", "1024"):
            base = root / f"realiad_{size}" / category
            image(base / f"OK/S0001/{category}_0001_OK_C1_20231021.jpg")
            image(base / f"OK/S0002/{category}_0002_OK_C1_20231021.jpg")
            image(base / f"NG/HS/S0003/{category}_0003_NG_HS_C1_20231021.jpg")
            mask(base / f"NG/HS/S0003/{category}_0003_NG_HS_C1_20231021.png")
        rows = [
            ("OK", f"OK/S000{number}/{category}_000{number}_OK_C1_20231021.jpg", None) for number in (1, 2)
        ]
        stem = f"NG/HS/S0003/{category}_0003_NG_HS_C1_20231021"
        rows.append(("HS", f"{stem}.jpg", f"{stem}.png"))
        entries = [
            {"category": category, "anomaly_class": kind, "image_path": path, "mask_path": mask_path}
            for kind, path, mask_path in rows
        ]
        document = {
            "meta": {"pre_transform": None, "normal_class": "OK", "prefix": f"{category}/"},
            "train": entries[:1],
            "test": entries[1:],
        }
        path = root / "realiad_jsons" / "realiad_jsons" / f"{category}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return root


def ksdd(root: Path) -> Path:
    for item in ("kos01", "kos02"):
        for number in range(3):
            image(root / item / f"Part{number}.jpg", mode="L")
            mask(root / item / f"Part{number}_label.bmp", empty=number != 1)
    return root


def ksdd2(root: Path) -> Path:
    for part, numbers in (("train", (10000, 10001)), ("test", (20000, 20001, 20002))):
        for number in numbers:
            image(root / part / f"{number}.png")
            mask(root / part / f"{number}_GT.png", empty=number % 2 == 0)
    (root / "split_weakly_0.pyb").write_bytes(b"never read")
    return root


def dagm(root: Path) -> Path:
    for category in ("Class1", "Class2", "Class10"):
        for part, first in (("Train", 1), ("Test", 3)):
            base = root / category / part
            image(base / f"{first:04d}.PNG", mode="L")
            image(base / f"{first + 1:04d}.PNG", mode="L")
            mask(base / f"Label/{first + 1:04d}_label.PNG")
            (base / "Label/Labels.txt").write_text(
                f"1\n{first}\t0\t{first:04d}.PNG\t0\t0\n"
                f"{first + 1}\t1\t{first + 1:04d}.PNG\t0\t{first + 1:04d}_label.PNG\n"
            )
    return root


def head_ct(root: Path) -> Path:
    for number in range(4):
        image(root / f"head_ct/head_ct/{number:03d}.png")
    (root / "labels.csv").write_text("id, hemorrhage\n0,1\n1,1\n2,0\n3,0\n")
    return root


def brain_mri(root: Path) -> Path:
    for base in (root, root / "brain_tumor_dataset"):
        image(base / "yes/Y1.jpg")
        image(base / "yes/Y2.JPG")
        image(base / "no/1 no.jpeg")
    return root


def br35h(root: Path) -> Path:
    image(root / "yes/y0.jpg")
    image(root / "no/no0.jpg")
    image(root / "pred/pred0.jpg")
    image(root / "Br35H-Mask-RCNN/TRAIN/y0.jpg")
    return root


def covid(root: Path) -> Path:
    base = root / "COVID-19_Radiography_Dataset"
    for name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        image(base / name / f"images/{name}-1.png")
        mask(base / name / f"masks/{name}-1.png")
        (base / f"{name}.metadata.xlsx").write_bytes(b"PK")
    (base / "README.md.txt").write_text("read me")
    return root


def covid_first_version(root: Path) -> Path:
    base = root / "COVID-19 Radiography Database"
    image(base / "COVID-19/COVID-19 (1).png")
    image(base / "NORMAL/NORMAL (1).png")
    image(base / "Viral Pneumonia/Viral Pneumonia (1).png")
    return root


def isic(root: Path) -> Path:
    for number in ("0000003", "0000012"):
        image(root / f"ISBI2016_ISIC_Part1_Test_Data/ISIC_{number}.jpg")
        mask(root / f"ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_{number}_Segmentation.png")
    return root


def images_and_masks(root: Path) -> Path:
    for number in (1, 2):
        image(root / f"images/{number}.png")
        mask(root / f"masks/{number}.png")
    return root


def kvasir(root: Path) -> Path:
    base = root / "Kvasir-SEG"
    for name in ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4"):
        image(base / f"images/{name}.jpg")
        mask(base / f"masks/{name}.jpg")
    (base / "kavsir_bboxes.json").write_text("{}")
    return root


def clinic_db(root: Path) -> Path:
    for number in (1, 2):
        image(root / f"CVC-ClinicDB/Original/{number}.tif")
        mask(root / f"CVC-ClinicDB/Ground Truth/{number}.tif")
    return root


def colon_db_official(root: Path) -> Path:
    for number in (1, 2):
        image(root / f"{number}.bmp")
        mask(root / f"p{number}.bmp")
        mask(root / f"s{number}.bmp")
        mask(root / f"c{number}.bmp")
    return root


def tn3k(root: Path) -> Path:
    base = root / "Thyroid Dataset" / "tn3k"
    for part in ("test", "trainval"):
        image(base / f"{part}-image/0000.jpg")
        mask(base / f"{part}-mask/0000.jpg")
    (base / "tn3k-trainval-fold0.json").write_text("{}")
    return root


def reference_meta(root: Path) -> Path:
    """Builds a folder like AnomalyCLIP's scripts: capital split names, absolute paths of elsewhere."""
    image(root / "brain/test/good/1.png")
    image(root / "brain/test/tumour/2.png")
    image(root / "colon/images/1.png")
    mask(root / "colon/masks/1.png")

    def row(path, mask_path, name, kind, anomaly):
        return {
            "img_path": path,
            "mask_path": mask_path,
            "cls_name": name,
            "specie_name": kind,
            "anomaly": anomaly,
        }

    far = "/remote-home/somebody/data/medical"
    document = {
        "Train": {},
        "Test": {
            "brain": [
                row("brain/test/good/1.png", "", "brain", "good", 0),
                row("brain/test/tumour/2.png", "", "brain", "tumour", 1),
            ],
            "colon": [row(f"{far}/colon/images/1.png", f"{far}/colon/masks/1.png", "colon", "", 1)],
        },
    }
    (root / "meta.json").write_text(json.dumps(document))
    return root


# Name in the catalogue, with the version -> (builder, normal, anomalous, with mask, training, class names)
TREES = {
    "mvtec": (mvtec, 4, 2, 2, 2, ("bottle", "metal nut")),
    "visa": (visa, 2, 2, 2, 2, ("candle", "pipe fryum")),
    "visa, re-arranged": (visa_rearranged, 2, 2, 2, 2, ("candle", "pipe fryum")),
    "mpdd": (lambda root: mvtec(root, ("bracket_black", "tubes")), 4, 2, 2, 2, ("bracket black", "tubes")),
    "btad": (btad, 3, 3, 3, 3, ("01", "02", "03")),
    "dtd": (dtd, 2, 2, 2, 2, ("Blotchy_099", "Woven_001")),
    "loco": (loco, 1, 2, 2, 1, ("breakfast box",)),
    "mvtec2": (mvtec2, 1, 1, 1, 1, ("sheet metal",)),
    "real-iad": (real_iad, 2, 2, 2, 2, ("audiojack", "toy brick")),
    "ksdd": (ksdd, 4, 2, 2, 0, ("electrical commutators",)),
    "ksdd2": (ksdd2, 2, 1, 1, 1, ("surface",)),
    "dagm": (dagm, 3, 3, 3, 3, ("Class1", "Class2", "Class10")),
    "headct": (head_ct, 2, 2, 0, 0, ("brain",)),
    "brainmri": (brain_mri, 1, 2, 0, 0, ("brain",)),
    "br35h": (br35h, 1, 1, 0, 0, ("brain",)),
    "covid19": (covid, 1, 1, 0, 0, ("chest",)),
    "covid19, first version": (covid_first_version, 1, 1, 0, 0, ("chest",)),
    "isic": (isic, 0, 2, 2, 0, ("skin",)),
    "colondb": (images_and_masks, 0, 2, 2, 0, ("colon",)),
    "colondb, official page": (colon_db_official, 0, 2, 2, 0, ("colon",)),
    "clinicdb": (clinic_db, 0, 2, 2, 0, ("colon",)),
    "kvasir": (kvasir, 0, 2, 2, 0, ("colon",)),
    "endo": (images_and_masks, 0, 2, 2, 0, ("colon",)),
    "tn3k": (tn3k, 0, 1, 1, 0, ("thyroid",)),
}
