from zsad.evaluation.options import EvaluateOptions as EvaluateOptions
from zsad.evaluation.results import EvaluationResult as EvaluationResult
from zsad.evaluation.run import evaluate as evaluate
