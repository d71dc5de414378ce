"""Continuous landmark detection with 3D queries: Chandran et al., CVPR 2023."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxface import config_values, optim, parallel, run_length
from jaxface.errors import UserError
from jaxface.heads import sources
from jaxface.system import Batch, Evaluator, System, Tree
from jaxface.systems.continuous import (
    losses,
    metrics,
    model,
    other_template,
    own_layouts,
    parts,
    predict,
    query_table,
    rendering,
    torch_weights,
)
from jaxface.systems.continuous.deformer import DEFORMER
from jaxface.systems.continuous.values import VALUES

# Factor on the learning rate of the offsets and of the deformer.
OFFSET_LEARNING_RATE = 0.1


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` with the layout of every data set in `layouts`, and the steps of its data sets.

    Points of the user's own landmarks are found with the model of `config.init` (`layout_search`). Raises UserError if
    there is none, and for values outside their range.
    """
    config_values.check(config, VALUES)
    config = run_length.resolve(config)
    return query_table.with_layouts(config, functools.partial(own_layouts.from_start, config))


def build(config: ml_collections.ConfigDict) -> System:
    """The system of `config` (configs/continuous.py). Raises UserError if values do not fit together."""
    config = resolve(config)
    net = model.model_from_config(config.model)
    size, num_surface_samples = config.model.image_size, config.data.num_surface_samples
    names = config.head.names if config.data.endless else ()
    sets, weight = tuple(query_table.offset_sets(config)), config.loss.get("offsets", 0.0)
    deforming = query_table.deformer_of(config)
    offsets = losses.OffsetTable(sets, tuple(config.data.datasets), weight, deforming)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        params, model_state = model.init(net, size, key)
        return with_corrections(params, {}, key), model_state

    def with_corrections(params: Tree, learned: Tree, key: jax.Array) -> Tree:
        """The network's parameters, and what moves the queries of data sets, continued from the `learned` offsets."""
        zeros = query_table.zero_offsets(config)
        started = {name: learned.get(name, zero) for name, zero in zeros.items()}
        params = {**losses.network_params(params), **({query_table.OFFSETS: started} if started else {})}
        return params if deforming is None else {**params, DEFORMER: deforming.init(key)}

    def warm_start(params: Tree, model_state: Tree) -> tuple[Tree, Tree]:
        key = jax.random.key(config.seed)
        return with_corrections(params, params.get(query_table.OFFSETS, {}), key), model_state

    def train_data(step: int) -> Iterator[Batch]:
        if config.data.endless:
            return _index_batches(config)
        from jaxface.systems.continuous import data

        return data.train_stream(config, step)

    def eval_data(name: str) -> Iterator[Batch]:
        from jaxface.systems.continuous import data

        return data.eval_stream(config, name)

    def score(name: str, *arguments: Any) -> dict[str, jax.Array]:
        queries = query_table.query_set(config, name.removesuffix(query_table.DETECTOR))
        return metrics.score(net, queries, config.model.sigma_scale, deforming, *arguments)

    def constants() -> Tree:
        heads = {name: sources.load_head(name, config.head.path) for name in names}
        folder = config.head.backgrounds
        photos = {"photos": rendering.background_photos(folder)} if names and folder else {}
        return {name: rendering.rendering_head(head, config.data.regions) | photos for name, head in heads.items()}

    def render(batch: Batch, key: jax.Array, constants: Tree) -> Batch:
        return rendering.render_batch(batch, key, constants, size, num_surface_samples)

    return System(
        init=init,
        constants=constants,
        loss=functools.partial(losses.training_loss, net, config.loss, offsets),
        optimizer=optim.optimizer(_optim_config(config, offsets), config.steps, config.batch_size),
        train_data=train_data,
        evaluators={
            name: Evaluator(
                functools.partial(eval_data, name),
                functools.partial(score, name),
                metrics.summarise,
                config.eval_every,
                metrics.main_errors,
            )
            for name in config.data.evaluate
        },
        **_prediction(config, net),
        raw=functools.partial(model.raw, net),
        inputs={"image": f"B, {size}, {size}, 3", "queries": "B, N, 3"},
        from_torch=functools.partial(torch_weights.from_torch, net),
        warm_start=warm_start,
        parts=functools.partial(parts.parts, net, size),
        **({"preprocess_on_device": render} if config.data.endless else {}),
    )


def _prediction(config: ml_collections.ConfigDict, net: model.Continuous) -> dict[str, Any]:
    """The functions of the system for prediction, which depend on the template that the network was trained on."""
    if config.model.template == query_table.OTHER_TEMPLATE:
        return {"predict": other_template.bind(net, config.model.image_size)}
    named_layouts = functools.partial(query_table.named_layouts, config)
    return predict.bind(net, config.model, tuple(config.data.regions), named_layouts)


def _optim_config(config: ml_collections.ConfigDict, offsets: losses.OffsetTable) -> ml_collections.ConfigDict:
    """`config.optim`, where offsets and deformer have a lower learning rate unless `multipliers` sets one."""
    settings = config.optim.copy_and_resolve_references()
    learned = {query_table.OFFSETS: bool(offsets.sets), DEFORMER: offsets.deformer is not None}
    with settings.unlocked():
        for name, present in learned.items():
            if present and name not in settings.multipliers:
                settings.multipliers[name] = OFFSET_LEARNING_RATE
    return settings


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
