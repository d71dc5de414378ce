"""The flags --workdir and --system, which select the model of a job."""

from absl import flags

from jaxface import config_file
from jaxface.inference import Predictor

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run or a converted checkpoint")
SYSTEM = flags.DEFINE_string("system", None, "pretrained model of this system (default: continuous, for edits deep3d)")


def predictor(default: str = "continuous") -> Predictor:
    """The model of --workdir, or the pretrained one of --system or `default`.

    Raises UserError if there is none or it is of another system.
    """
    if WORKDIR.value is None:
        return Predictor.pretrained(SYSTEM.value or default)
    if SYSTEM.value is not None:
        config_file.check_system(WORKDIR.value, SYSTEM.value)
    return Predictor.from_workdir(WORKDIR.value)
