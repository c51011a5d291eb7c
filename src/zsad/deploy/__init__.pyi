from zsad.deploy.bundle import Bundle as Bundle
from zsad.deploy.bundle import read_bundle as read_bundle
from zsad.deploy.runtime import ExportedDetector as ExportedDetector
from zsad.deploy.runtime import load_exported as load_exported
