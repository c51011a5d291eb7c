from zsad.backbones.catalog import list_backbones as list_backbones
from zsad.backbones.clip import CLIP as CLIP
from zsad.backbones.loading import load_backbone as load_backbone
