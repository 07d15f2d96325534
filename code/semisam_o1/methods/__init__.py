"""The semi-supervised methods by the names that ``--backbone`` takes."""

from semisam_o1.methods.base import LossTerm, Method, MethodOptions
from semisam_o1.methods.dan import DAN
from semisam_o1.methods.dtc import DTC
from semisam_o1.methods.mean_teacher import MeanTeacher
from semisam_o1.methods.uamt import UAMT

METHODS: dict[str, type[Method]] = {"mt": MeanTeacher, "uamt": UAMT, "dan": DAN, "dtc": DTC}

__all__ = ["DAN", "DTC", "METHODS", "UAMT", "LossTerm", "MeanTeacher", "Method", "MethodOptions"]
