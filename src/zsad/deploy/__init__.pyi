from zsad.deploy.bundle import Bundle as Bundle
from zsad.deploy.bundle import read_bundle as read_bundle
