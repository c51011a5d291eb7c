from zsad.prediction.options import PredictOptions as PredictOptions
from zsad.prediction.run import PredictResult as PredictResult
from zsad.prediction.run import predict_folder as predict_folder
from zsad.prediction.watching import WatchOptions as WatchOptions
from zsad.prediction.watching import watch_folders as watch_folders
