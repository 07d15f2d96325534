"""Under which keys the registrations of a cohort are cached."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from semisam_o1.data.preflight.check import Cohort
from semisam_o1.propagation.atlas import VOXEL
from semisam_o1.propagation.registration import Step

VERSION = 3  # part of the keys, to be raised whenever results change


@dataclass(frozen=True)
class AtlasKeys:
    """The keys of a cohort's registrations: they depend on images, spacings, the templates' labels, and settings."""

    cohort: Cohort
    num_classes: int
    features_key: str
    registration: bool

    def volume(self, name: str) -> str:
        """Return the key of a volume's registration to the templates."""
        return f"{self._folder}/{self._key(name)}"

    def pair(self, fixed: str, moving: str) -> str:
        """Return the key of the registration of two volumes to each other."""
        return f"{self._folder}/pairs/{self._key(fixed)}-{self._key(moving)}"

    @cached_property
    def unknown_spacing(self) -> list[str]:
        """The training volumes whose spacing is not known."""
        return [name for name in self.cohort.train if not self.cohort.info[name].geometry.known]

    def spacing(self, name: str) -> Step:
        """Return the spacing of a volume in mm, or that of cubes if it is not known throughout the cohort.

        A volume outside of the cohort that states none counts as having that of the first template.
        """
        info = self.cohort.info
        known = name if info[name].geometry.known else self.cohort.labeled[0]
        return VOXEL if self.unknown_spacing else tuple(info[known].geometry.spacing)

    @cached_property
    def _folder(self) -> str:
        settings = f"{VERSION} {self.num_classes} {self.features_key} {self.registration}"
        digest = hashlib.blake2b(settings.encode(), digest_size=8)
        for name in self.cohort.labeled:
            digest.update(f"{self._key(name)} {self.cohort.info[name].label_hash}".encode())
        return f"atlas-{digest.hexdigest()}"

    def _key(self, name: str) -> str:
        """Return what the registration of a volume depends on: its image and its spacing."""
        return "-".join([self.cohort.info[name].hash, *(f"{length:g}" for length in self.spacing(name))])
