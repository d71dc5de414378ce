"""A network as one file that runs without this package: python -m launch.export [--workdir W] --output model.stablehlo

Without --workdir the model that ships is used. What goes in and comes out are the arrays of `launch.infer --raw`:
    jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call({"image": …, "queries": …})
"""

import os

from absl import flags

from jaxface import export
from jaxface.errors import UserError
from launch import app, model

OUTPUT = flags.DEFINE_string("output", None, "file to write")


def main(argv: list[str]) -> None:
    """Writes the model that the flags name and says what it takes."""
    del argv
    if not OUTPUT.value:
        raise UserError("needs --output FILE")
    predictor = model.predictor()
    data = export.serialize(predictor.system, predictor.params, predictor.model_state)
    try:
        with open(f"{OUTPUT.value}.partial", "wb") as file:
            file.write(data)
        os.replace(f"{OUTPUT.value}.partial", OUTPUT.value)
    except OSError as error:
        raise UserError(f"{OUTPUT.value} cannot be written: {error.strerror}") from error
    takes = ", ".join(f"{name} ({shape})" for name, shape in predictor.system.inputs.items())
    print(f"{OUTPUT.value} takes {takes}; {len(data) / 1e6:.1f} MB for {', '.join(export.PLATFORMS)}")


if __name__ == "__main__":
    app.run(main)
