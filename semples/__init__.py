"""SemPLeS, weakly supervised semantic segmentation: one run of the method."""

from importlib.metadata import version

__version__ = version("semples-tune")
