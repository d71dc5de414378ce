"""The flags --workdir, --system and --model, which select the model of a job."""

from absl import flags

from jaxface import config_file
from jaxface.errors import UserError
from jaxface.inference import ACCURATE, MODELS, Predictor

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run or a converted checkpoint")
SYSTEM = flags.DEFINE_string("system", None, "pretrained model of this system (default: continuous, for edits deep3d)")
MODEL = flags.DEFINE_enum("model", None, MODELS, "pretrained model: fast, or accurate (default) and slower")


def predictor(default: str = "continuous") -> Predictor:
    """The model of --workdir, or the pretrained one of --system or `default`.

    Raises UserError if there is none or it is of another system.
    """
    if WORKDIR.value is None:
        return Predictor.pretrained(SYSTEM.value or default, MODEL.value or ACCURATE)
    if MODEL.value is not None:
        raise UserError("--model: selects a pretrained model; leave it out, or --workdir")
    if SYSTEM.value is not None:
        config_file.check_system(WORKDIR.value, SYSTEM.value)
    return Predictor.from_workdir(WORKDIR.value)
