"""Exports a network as StableHLO or ONNX: python -m launch.export [--workdir W] --output model.stablehlo

The file runs without this package. The ending .onnx gives an ONNX file, which onnxruntime checks against the network
(extra `onnx`); any other gives StableHLO. Without --workdir the pretrained model is used. The system continuous is also
written in two parts, model_encode.stablehlo (image to features) and model_query.stablehlo (features and queries to
points): an image is encoded once for any number of queries. Inputs and outputs are the arrays of `launch.infer --raw`:
    jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call({"image": …, "queries": …})
    onnxruntime.InferenceSession("model.onnx").run(None, {"image": …, "queries": …})
"""

import pathlib

from absl import flags

from jaxface import export, outputs
from jaxface.errors import UserError

from . import app, model

OUTPUT = flags.DEFINE_string("output", None, "file to write; with the ending .onnx an ONNX file, else StableHLO")
ONNX_ENDING = ".onnx"
# Endings of formats that are not written.
OTHER_ENDINGS = frozenset(".pt .pth .pkl .h5 .keras .pb .tflite .mlmodel .mlpackage .engine .safetensors".split())


def main(argv: list[str]) -> None:
    """Writes the model that the flags name and prints its inputs."""
    del argv
    output = app.required(OUTPUT)
    path = pathlib.PurePath(output)
    if path.suffix.lower() in OTHER_ENDINGS:
        raise UserError(f"--output: {path.suffix} is another format; name the file .stablehlo or {ONNX_ENDING}")
    predictor = model.predictor()
    graphs = {output: predictor.system}
    graphs |= {str(path.with_stem(f"{path.stem}_{name}")): part for name, part in predictor.system.parts().items()}
    for name, graph in graphs.items():
        arguments = graph, predictor.params, predictor.model_state
        if path.suffix.lower() == ONNX_ENDING:
            onnx = export.serialize_onnx(*arguments)
            data = onnx.data
            runtime = f"onnxruntime; one picture {onnx.ms:.1f} ms, the network {onnx.network_ms:.1f} ms"
        else:
            data = export.serialize(*arguments)
            runtime = ", ".join(export.PLATFORMS)
        outputs.write_file(name, data)
        inputs = ", ".join(f"{name} ({shape})" for name, shape in graph.inputs.items())
        print(f"{name} takes {inputs}; {len(data) / 1e6:.1f} MB for {runtime}")


if __name__ == "__main__":
    app.run(main)
