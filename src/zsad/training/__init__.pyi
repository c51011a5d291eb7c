from zsad.training.loop import train as train
from zsad.training.options import TrainOptions as TrainOptions
from zsad.training.options import TrainResult as TrainResult
