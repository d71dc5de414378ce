"""Exports a network as StableHLO: python -m launch.export [--workdir W] --output model.stablehlo

The file runs without this package. Without --workdir the pretrained model is used. The system continuous is also
written in two parts, model_encode.stablehlo (image to features) and model_query.stablehlo (features and queries to
points): an image is encoded once for any number of queries. Inputs and outputs are the arrays of `launch.infer --raw`:
    jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call({"image": …, "queries": …})
"""

import pathlib

from absl import flags

from jaxface import export, outputs

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
        outputs.write_file(name, data)
        inputs = ", ".join(f"{name} ({shape})" for name, shape in graph.inputs.items())
        print(f"{name} takes {inputs}; {len(data) / 1e6:.1f} MB for {', '.join(export.PLATFORMS)}")


if __name__ == "__main__":
    app.run(main)
