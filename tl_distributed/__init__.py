"""Transfer learning with ImageNet backbones on one GPU or many.

Importing this package imports no TensorFlow, so that `--help` and a mistyped flag answer at once.
"""

__version__ = "0.1.0"
