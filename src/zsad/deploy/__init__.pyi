from zsad.deploy.bundle import Bundle as Bundle
from zsad.deploy.bundle import read_bundle as read_bundle
from zsad.deploy.export import ExportResult as ExportResult
from zsad.deploy.export import export_detector as export_detector
from zsad.deploy.runtime import ExportedDetector as ExportedDetector
from zsad.deploy.runtime import load_exported as load_exported
from zsad.deploy.server.options import ServeOptions as ServeOptions
from zsad.deploy.server.serving import serve as serve
