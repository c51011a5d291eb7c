from zsad.methods._registry import list_methods as list_methods
from zsad.methods._registry import method_class as method_class
from zsad.methods.base import Method as Method
from zsad.methods.base import MethodConfig as MethodConfig
from zsad.methods.base import State as State
from zsad.methods.base import Support as Support
from zsad.methods.training import TrainingDefaults as TrainingDefaults
