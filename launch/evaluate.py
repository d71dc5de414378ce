"""Scores the model of a workdir: python -m launch.evaluate --workdir W [--dataset NAME] [--pictures]

Prints the metrics and writes them to W/eval.json. Everything about the model comes from W/config.json.
--pictures also writes the cumulative error distribution and the 16 worst examples of each data set into W/pictures.

Published evaluations: python -m launch.evaluate --protocol NAME --manual_dir DIR [--workdir W | --system NAME]
NAME: now, micc, aflw2000, facewarehouse, realy (heads), nphm (scans), cross_domain, gte, cvgtce (landmarks). DIR holds
the benchmark's own files. Writes NAME.json, NAME.md (table), NAME.csv (errors by example), NAME_ced.png and
NAME_worst.png into --output (default: W/protocols). Without --workdir the pretrained model is scored; --predictions
scores a folder of meshes instead (now, realy).
"""

import json
import pathlib

import jax
from absl import flags

from jaxface import config_file, evaluation, parallel, system
from jaxface.errors import UserError, is_remote
from jaxface.inference import Predictor
from jaxface.protocols import protocol as protocols
from jaxface.protocols import registry

from . import app

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run or a converted checkpoint")
DATASET = flags.DEFINE_string("dataset", None, "one of the system's evaluators (default: all)")
PICTURES = flags.DEFINE_bool("pictures", False, "write the CED and the worst examples into WORKDIR/pictures")
BACKEND = flags.DEFINE_enum("backend", None, parallel.BACKENDS, "how the step is mapped to devices (default: config)")
PROTOCOL = flags.DEFINE_string("protocol", None, f"a published evaluation: {', '.join(registry.PROTOCOLS)}")
MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "with --protocol: folder of the benchmark's files")
SYSTEM = flags.DEFINE_string("system", None, "with --protocol: score the pretrained model of this system")
PREDICTIONS = flags.DEFINE_string("predictions", None, "with --protocol now or realy: folder of predicted meshes")
METRICAL = flags.DEFINE_bool("metrical", False, "with --protocol now: do not estimate the size of the heads")
UNITS = flags.DEFINE_enum("units", "mm", ["mm", "cm", "m"], "with --metrical: unit of the predicted meshes")
OUTPUT = flags.DEFINE_string("output", None, "with --protocol: folder of the results (default: WORKDIR/protocols)")
UNIT_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
app.define_cluster()


def main(argv: list[str]) -> None:
    """Scores the model of the workdir on its data sets, or by the protocol that the flags name."""
    del argv
    if PROTOCOL.value is not None:
        run_protocol(PROTOCOL.value)
        return
    workdir = app.required(WORKDIR)
    config = config_file.load(workdir)
    if BACKEND.value:
        config.backend = BACKEND.value
    if flags.FLAGS.coordinator:
        app.join_cluster(saves=False)
    names = [DATASET.value] if DATASET.value else None
    results = evaluation.evaluate(system.build(config, "the configuration"), config, workdir, names, PICTURES.value)
    if jax.process_index() == 0:
        print(json.dumps(results, indent=2))
        print(f"metrics written to {workdir}/{evaluation.RESULTS_FILE}")


def run_protocol(name: str) -> None:
    """Runs a published evaluation, prints its table and writes its files."""
    protocol = registry.find(name)
    manual_dir = pathlib.Path(app.required(MANUAL_DIR))
    if not manual_dir.is_dir():
        raise UserError(f"--manual_dir {manual_dir}: not a folder; expected {protocol.tree}")
    if PREDICTIONS.value and not protocol.takes_predictions:
        raise UserError(f"--predictions: {name} scores a model; leave it out")
    if METRICAL.value and name != "now":
        raise UserError(f"--metrical: {name} has no metrical variant; leave it out")
    output = _output()
    protocols.check_targets(name, output)
    predictions = pathlib.Path(PREDICTIONS.value) if PREDICTIONS.value else None
    predictor = None if predictions else _predictor(protocol)
    request = protocols.Request(manual_dir, output, predictor, predictions, METRICAL.value, UNIT_MM[UNITS.value])
    outcome = protocol.run(request)
    protocols.write(outcome, protocol, name, output)
    print(protocols.markdown(outcome.table), end="")
    print(f"published: {protocol.published}")
    skipped = f", {len(outcome.skipped)} could not be scored" if outcome.skipped else ""
    print(f"{len(outcome.items)} examples scored{skipped}; results written to {output}")


def _output() -> pathlib.Path:
    if OUTPUT.value:
        return pathlib.Path(OUTPUT.value)
    if WORKDIR.value is None:
        raise UserError("--output: missing; give a folder for the results")
    if is_remote(WORKDIR.value):
        raise UserError("--output: missing; --workdir is in a bucket, give a folder of this machine for the results")
    return pathlib.Path(WORKDIR.value) / "protocols"


def _predictor(protocol: protocols.Protocol) -> Predictor:
    """The model of --workdir or --system. Raises UserError if the protocol does not score its system."""
    if WORKDIR.value is None:
        predictor = Predictor.pretrained(SYSTEM.value or protocol.systems[0])
    else:
        predictor = Predictor.from_workdir(WORKDIR.value)
    if predictor.config.system not in protocol.systems:
        systems = ", ".join(protocol.systems)
        raise UserError(f"{predictor.source}: a model of {predictor.config.system}; this protocol scores {systems}")
    return predictor


if __name__ == "__main__":
    app.run(main)
