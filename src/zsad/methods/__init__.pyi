from zsad.methods._registry import list_methods as list_methods
from zsad.methods._registry import method_class as method_class
from zsad.methods.base import Method as Method
