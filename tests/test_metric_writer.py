"""The metric writer: one history without repeated steps after a kill, and images in the events."""

import numpy as np

from jaxface import metric_writer


def test_lines_after_the_checkpoint_are_written_again(tmp_path):
    with metric_writer.MetricWriter(tmp_path, 0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": np.float32(0.5 * step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with metric_writer.MetricWriter(tmp_path, 2) as writer:
        writer.write(3, {"loss": 9.0})
    assert metric_writer.read(tmp_path) == [
        {"step": step, "loss": loss} for step, loss in [(1, 0.5), (2, 1.0), (3, 9.0)]
    ]


def test_images_go_to_the_events(tmp_path):
    before = sum(path.stat().st_size for path in tmp_path.glob("events*"))
    with metric_writer.MetricWriter(tmp_path, 0) as writer:
        writer.write_images(1, {"overlay": np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)})
    assert sum(path.stat().st_size for path in tmp_path.glob("events*")) > before + 2000
