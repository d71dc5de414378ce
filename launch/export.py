"""Exports a network as one StableHLO or ONNX file: python -m launch.export [--workdir W] --output model.stablehlo

The file runs without this package. The ending .onnx gives an ONNX file, which onnxruntime checks against the network
(extra `onnx`); any other gives StableHLO. Without --workdir the pretrained model is used. Inputs and outputs are the
arrays of `launch.infer --raw`:
    onnxruntime.InferenceSession("model.onnx").run(None, {"image": …, "queries": …})
    jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call({"image": …, "queries": …})
"""

import os

from absl import flags

from jaxface import export
from jaxface.errors import UserError

from . import app, model

OUTPUT = flags.DEFINE_string("output", None, "file to write; with the ending .onnx an ONNX file, else StableHLO")
ONNX_ENDING = ".onnx"


def main(argv: list[str]) -> None:
    """Writes the model that the flags name and prints its inputs."""
    del argv
    output = app.required(OUTPUT)
    predictor = model.predictor()
    model_parts = predictor.system, predictor.params, predictor.model_state
    if output.lower().endswith(ONNX_ENDING):
        onnx = export.serialize_onnx(*model_parts)
        data, runtime = onnx.data, f"onnxruntime; one picture {onnx.ms:.1f} ms, the network {onnx.network_ms:.1f} ms"
    else:
        data, runtime = export.serialize(*model_parts), ", ".join(export.PLATFORMS)
    try:
        with open(f"{output}.partial", "wb") as file:
            file.write(data)
        os.replace(f"{output}.partial", output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from error
    inputs = ", ".join(f"{name} ({shape})" for name, shape in predictor.system.inputs.items())
    print(f"{output} takes {inputs}; {len(data) / 1e6:.1f} MB for {runtime}")


if __name__ == "__main__":
    app.run(main)
