"""The published evaluations by name."""

import importlib

from jaxface.errors import UserError
from jaxface.protocols.protocol import Protocol

# Modules by name: {protocol: (module, its `Protocol`)}.
PROTOCOLS = {
    "now": ("now", "NOW"),
    "micc": ("micc", "MICC"),
    "aflw2000": ("aflw2000", "AFLW2000"),
    "facewarehouse": ("facewarehouse", "FACEWAREHOUSE"),
    "realy": ("realy", "REALY"),
    "nphm": ("nphm", "NPHM"),
    "cross_domain": ("cross_domain", "CROSS_DOMAIN"),
    "gte": ("faw3d", "GTE"),
    "cvgtce": ("faw3d", "CVGTCE"),
}


def find(name: str) -> Protocol:
    """The protocol of a name. Raises UserError, with all names, if there is none."""
    if name not in PROTOCOLS:
        raise UserError(f"--protocol: unknown {name!r}; choose one of {', '.join(PROTOCOLS)}")
    module, member = PROTOCOLS[name]
    return getattr(importlib.import_module(f"jaxface.protocols.{module}"), member)
