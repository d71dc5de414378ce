"""Finds where the landmarks of a data set lie on the template: python -m launch.layout --dataset NAME [--workdir W]

The network of the workdir is kept fixed; 24 labelled images are enough. The template points are stored in
W/config.json: `launch.infer --workdir W --layout NAME` then answers the layout, and a training in W asks for it.
Without --workdir the pretrained model is used, and --output is written, an array (K,3) for --layout FILE.npy.
"""

import pathlib

import numpy as np
from absl import flags

from jaxface import config_file, pretrained
from jaxface.errors import UserError, disk_errors
from jaxface.inference import ASSETS
from jaxface.systems.continuous import own_layouts, query_table

from . import app

DATASET = flags.DEFINE_string("dataset", None, "NAME[/variant][:SPLIT] of a prepared data set with landmarks")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of a training run of the system continuous")
DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of prepared data sets (default: that of the workdir, or data)")
OUTPUT = flags.DEFINE_string("output", None, "without --workdir: the .npy file to write")
SYSTEM = "continuous"


def main(argv: list[str]) -> None:
    """Finds the points, prints their errors and stores them."""
    del argv
    dataset, workdir = app.required(DATASET), WORKDIR.value
    if workdir is None:
        target = pathlib.Path(app.required(OUTPUT))
        if target.exists() or target.suffix != ".npy":
            reason = "exists already" if target.exists() else "does not end in .npy"
            raise UserError(f"--output {target}: {reason}; give another name")
    else:
        config_file.check_system(workdir, SYSTEM)
    config, params, model_state = pretrained.load(workdir or ASSETS / SYSTEM)
    data = config.data.copy_and_resolve_references()
    data.dir = DATA_DIR.value or data.dir
    entry, errors = own_layouts.find(config, params, model_state, dataset, data)
    worst = int(np.argmax(errors))
    print(f"{dataset}: {len(errors)} points, mean error {errors.mean():.2f} % of half a crop")
    print(f"largest: point {worst}, {errors[worst]:.2f} %")
    name = query_table.dataset_name(dataset)
    if workdir is None:
        with disk_errors(target.parent):
            np.save(target, np.asarray(entry["points"], np.float32))
        print(f"template points written to {target}; python -m launch.infer --layout {target} answers them")
        return
    layouts = {**config.get("layouts", {}), query_table.entry_key(name): entry}
    with config.unlocked():
        config.layouts = layouts
    config_file.write(workdir, config)
    print(f"template points stored in {workdir}/config.json; python -m launch.infer --layout {name} answers them")


if __name__ == "__main__":
    app.run(main)
