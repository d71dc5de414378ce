"""Landmarks, 3D reconstruction and neural head models of human faces in JAX.

    from jaxface import Predictor
    faces = Predictor.pretrained()("photo.jpg")

The public names are loaded when they are first used, so that `import jaxface` loads neither JAX nor OpenCV.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxface.inference import Predictor
    from jaxface.results import FaceLandmarks, FaceReconstruction, HeadFit

    __version__: str

__all__ = ["FaceLandmarks", "FaceReconstruction", "HeadFit", "Predictor", "__version__"]

_MODULES = {
    "FaceLandmarks": "results",
    "FaceReconstruction": "results",
    "HeadFit": "results",
    "Predictor": "inference",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxface' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxface.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The version of the installed package; "0+unknown" in a checkout that is not installed."""
    try:
        return importlib.metadata.version("jaxface")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
