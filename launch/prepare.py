"""Builds a TFDS data set: `python -m launch.prepare --dataset rendered_heads/procedural --data_dir data`."""

from absl import flags

from launch import app

DATASET = flags.DEFINE_string("dataset", None, "name or name/variant", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", "data", "where the data set is written")
MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "where the files that you have obtained lie")
EXAMPLES = flags.DEFINE_integer(
    "examples", None, "generated sets: how many to train on (head_sdf: people); to test on, a twentieth more"
)
SIZE = flags.DEFINE_integer("size", None, "rendered sets: side of the pictures in pixels; head_sdf: points of a record")


def main(_: list[str]) -> None:
    from jaxface.data.prepare import prepare

    options = {flag.name: flag.value for flag in (EXAMPLES, SIZE) if flag.value is not None}
    info = prepare(DATASET.value, DATA_DIR.value, MANUAL_DIR.value, **options)
    print(info)


if __name__ == "__main__":
    app.run(main)
