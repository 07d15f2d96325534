"""The semi-supervised methods by the names that ``--backbone`` takes."""

from .base import Method, MethodOptions, Term
from .dan import DAN
from .dtc import DTC
from .mean_teacher import MeanTeacher
from .uamt import UAMT

METHODS: dict[str, type[Method]] = {"mt": MeanTeacher, "uamt": UAMT, "dan": DAN, "dtc": DTC}

__all__ = ["DAN", "DTC", "METHODS", "UAMT", "MeanTeacher", "Method", "MethodOptions", "Term"]
