"""Continuous landmark detection with 3D queries: Chandran et al., CVPR 2023. `build` makes the system of a config."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface import optim, parallel
from jaxface.heads import canonical, sources
from jaxface.system import Batch, Evaluator, System, Tree
from jaxface.systems.continuous import losses, metrics, model, predict, rendering, torch_weights


def build(config: ml_collections.ConfigDict) -> System:
    """The system of `config` (configs/continuous.py). Raises UserError for values that do not fit together."""
    net = model.model_from_config(config.model)
    size, dense = config.model.image_size, config.data.dense

    def loss(params: Tree, extra: Tree, batch: Batch, key: jax.Array, step: jax.Array, frozen: Tree):
        (points, sigma), changed = net.apply(
            {"params": params, **extra},
            *(batch[name] for name in ("image", "queries", "valid")),
            train=True,
            rngs={"dropout": key},
            mutable=[*extra, "intermediates"],
        )
        target, valid = batch["points"], batch["valid"]
        value, measured = losses.detector_loss(points, sigma, target, valid, step, config.loss.warmup)
        seen = changed.pop("intermediates", {})
        if seen:
            (log_attention,) = seen["predictor"]["log_attention"]
            looked = losses.attention_cross_entropy(log_attention, model.cell_centers(size // 8, size // 8), target)
            measured["attention"] = losses.masked_mean(looked, valid & (abs(target) < 1).all(-1))
            value += config.loss.attention * measured["attention"]
        return value, (changed, measured)

    def predict_batch(params: Tree, extra: Tree, batch: Batch, frozen: Tree) -> dict[str, jax.Array]:
        queries = jnp.broadcast_to(canonical.queries("68"), (len(batch["image"]), 68, 3))
        points, _ = net.apply({"params": params, **extra}, batch["image"], queries)
        picture = metrics.drawn(batch["image"], points, batch["landmarks"])
        return {**metrics.landmark_errors(points, batch), "picture": picture}

    def train_data(step: int) -> Iterator[Batch]:
        if config.data.endless:
            return _indices(parallel.local_batch_size(config.batch_size))
        from jaxface.systems.continuous import data

        return data.train_stream(config, step)

    def eval_data(name: str) -> Iterator[Batch]:
        from jaxface.systems.continuous import data

        return data.eval_stream(config, name)

    def frozen() -> Tree:
        if not config.data.endless:
            return {}
        return rendering.rendering_head(sources.load_head(config.head.name, config.head.path))

    def rendered(batch: Batch, key: jax.Array, frozen: Tree) -> Batch:
        return rendering.render_batch(batch, key, frozen, size, dense)

    return System(
        init=functools.partial(model.init, net, size),
        frozen=frozen,
        loss=loss,
        optimizer=optim.optimizer(config.optim, config.steps),
        train_data=train_data,
        evaluators={
            name: Evaluator(functools.partial(eval_data, name), predict_batch, metrics.summarise, config.eval_every)
            for name in config.data.evaluate
        },
        predict=predict.bind(net, size),
        raw=functools.partial(model.raw, net),
        from_torch=functools.partial(torch_weights.from_torch, net),
        **({"prepare": rendered} if config.data.endless else {}),
    )


def _indices(count: int) -> Iterator[Batch]:
    """Batches that only say how many pictures to render: the step's key makes them differ."""
    while True:
        yield {"index": np.arange(count, dtype=np.int32)}
