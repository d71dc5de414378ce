"""Exports a network as one StableHLO file: python -m launch.export [--workdir W] --output model.stablehlo

The file runs without this package. Without --workdir the pretrained model is used. Inputs and outputs are the arrays of
`launch.infer --raw`:
    jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call({"image": …, "queries": …})
"""

from absl import flags

from jaxface import export, outputs

from . import app, model

OUTPUT = flags.DEFINE_string("output", None, "file to write")


def main(argv: list[str]) -> None:
    """Writes the model that the flags name and prints its inputs."""
    del argv
    output = app.required(OUTPUT)
    predictor = model.predictor()
    data = export.serialize(predictor.system, predictor.params, predictor.model_state)
    outputs.write_file(output, data)
    inputs = ", ".join(f"{name} ({shape})" for name, shape in predictor.system.inputs.items())
    print(f"{output} takes {inputs}; {len(data) / 1e6:.1f} MB for {', '.join(export.PLATFORMS)}")


if __name__ == "__main__":
    app.run(main)
