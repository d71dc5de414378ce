"""Continuous landmark detection with 3D queries: Chandran et al., CVPR 2023."""

import functools
import itertools
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

from jaxface import optim, parallel
from jaxface.errors import UserError
from jaxface.heads import sources
from jaxface.system import Batch, Evaluator, System, Tree
from jaxface.systems.continuous import losses, metrics, model, predict, rendering, torch_weights


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` with its references resolved: this system leaves no value open."""
    return config.copy_and_resolve_references()


def build(config: ml_collections.ConfigDict) -> System:
    """The system of `config` (configs/continuous.py). Raises UserError if values do not fit together."""
    net = model.model_from_config(config.model)
    score = functools.partial(metrics.score, net)
    size, num_surface_samples = config.model.image_size, config.data.num_surface_samples
    names = config.head.names if config.data.endless else ()

    def train_data(step: int) -> Iterator[Batch]:
        if config.data.endless:
            return _index_batches(config)
        from jaxface.systems.continuous import data

        return data.train_stream(config, step)

    def eval_data(name: str) -> Iterator[Batch]:
        from jaxface.systems.continuous import data

        return data.eval_stream(config, name)

    def constants() -> Tree:
        heads = {name: sources.load_head(name, config.head.path) for name in names}
        return {name: rendering.rendering_head(head) for name, head in heads.items()}

    def render(batch: Batch, key: jax.Array, constants: Tree) -> Batch:
        return rendering.render_batch(batch, key, constants, size, num_surface_samples)

    return System(
        init=functools.partial(model.init, net, size),
        constants=constants,
        loss=functools.partial(losses.training_loss, net, config.loss),
        optimizer=optim.optimizer(config.optim, config.steps),
        train_data=train_data,
        evaluators={
            name: Evaluator(functools.partial(eval_data, name), score, metrics.summarise, config.eval_every)
            for name in config.data.evaluate
        },
        predict=predict.bind(net, size, config.model.template),
        raw=functools.partial(model.raw, net),
        inputs={"image": f"B, {size}, {size}, 3", "queries": "B, N, 3"},
        from_torch=functools.partial(torch_weights.from_torch, net),
        **({"preprocess_on_device": render} if config.data.endless else {}),
    )


def _index_batches(config: ml_collections.ConfigDict) -> Iterator[Batch]:
    """Endless equal batches, `index` (B,), that only carry their length; `preprocess_on_device` renders the images.

    The images differ from step to step because the key of the step does. Raises UserError if a device would render
    fewer images than there are heads.
    """
    count, heads = parallel.local_batch_size(config.batch_size), len(config.head.names)
    if count < heads * jax.local_device_count():
        devices = jax.device_count()
        raise UserError(
            f"config.batch_size: {config.batch_size} is too small for {heads} heads on {devices} devices; use at least "
            f"{heads * devices}"
        )
    return itertools.repeat({"index": np.arange(count, dtype=np.int32)})
