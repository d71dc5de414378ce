"""The flags that say whose model a launcher uses."""

from absl import flags

from jaxface import config_file
from jaxface.inference import Predictor

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run or a converted checkpoint")
SYSTEM = flags.DEFINE_string("system", None, "use the model that ships for this system (default: continuous)")


def predictor() -> Predictor:
    """The model of the workdir, or without one a model that ships. UserError: there is none, or of another system."""
    if WORKDIR.value is None:
        return Predictor.pretrained(SYSTEM.value or "continuous")
    if SYSTEM.value is not None:
        config_file.check_system(WORKDIR.value, SYSTEM.value)
    return Predictor.from_workdir(WORKDIR.value)
