from zsad.detector.calibration.calibrating import calibrate as calibrate
from zsad.detector.calibration.options import CalibrateOptions as CalibrateOptions
from zsad.detector.detector import Detector as Detector
from zsad.detector.loading import load as load
from zsad.detector.thresholds import Calibration as Calibration
