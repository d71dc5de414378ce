"""Exports a network as StableHLO: python -m launch.export [--workdir W] --output model.stablehlo

The file runs without this package. Without --workdir the pretrained model is used. The system continuous is also
written in two parts, model_encode.stablehlo (image to features) and model_query.stablehlo (features and queries to
points): an image is encoded once for any number of queries. Inputs and outputs are the arrays of `launch.infer --raw`:
    jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call({"image": …, "queries": …})
"""

import os
import pathlib

from absl import flags

from jaxface import export
from jaxface.errors import UserError

from . import app, model

OUTPUT = flags.DEFINE_string("output", None, "file to write")


def main(argv: list[str]) -> None:
    """Writes the model that the flags name and prints its inputs."""
    del argv
    output = app.required(OUTPUT)
    predictor = model.predictor()
    path = pathlib.PurePath(output)
    graphs = {output: predictor.system}
    graphs |= {str(path.with_stem(f"{path.stem}_{name}")): part for name, part in predictor.system.parts().items()}
    for name, graph in graphs.items():
        data = export.serialize(graph, predictor.params, predictor.model_state)
        write(name, data)
        inputs = ", ".join(f"{name} ({shape})" for name, shape in graph.inputs.items())
        print(f"{name} takes {inputs}; {len(data) / 1e6:.1f} MB for {', '.join(export.PLATFORMS)}")


def write(output: str, data: bytes) -> None:
    """Writes a file completely or not at all. Raises UserError if it cannot be written."""
    try:
        with open(f"{output}.partial", "wb") as file:
            file.write(data)
        os.replace(f"{output}.partial", output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    app.run(main)
