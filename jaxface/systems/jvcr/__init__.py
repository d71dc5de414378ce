"""Joint voxel and coordinate regression: Zhang et al., ICPR 2018."""

import functools
import operator
from collections.abc import Iterator

import ml_collections

from jaxface import config_values, optim, parallel, run_length
from jaxface.nn import batch_norm
from jaxface.system import Batch, Evaluator, System
from jaxface.systems.jvcr import losses, metrics, model, predict, targets, torch_weights
from jaxface.systems.jvcr.values import VALUES


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` with the steps of its data sets. Raises UserError for values outside their range."""
    config_values.check(config, VALUES)
    return run_length.resolve(config)


def build(config: ml_collections.ConfigDict) -> System:
    """The system of `config` (configs/jvcr.py). Raises UserError if values do not fit together."""
    config = resolve(config)
    net = model.model_from_config(config.model)
    axis = batch_norm.statistics_axis(parallel.AXIS, config.model.batch_norm_group)
    training_net = model.model_from_config(config.model, axis)
    mode, size = config.mode, config.model.image_size

    def train_data(step: int) -> Iterator[Batch]:
        from jaxface.systems.jvcr import data

        return data.train_stream(config, step)

    def eval_data(name: str) -> Iterator[Batch]:
        from jaxface.systems.jvcr import data

        return data.eval_stream(config, name)

    score = functools.partial(metrics.score, net, mode, size)
    return System(
        init=functools.partial(model.init, net, size),
        preprocess_on_device=functools.partial(
            targets.add_volumes, mode, net.pix2vox.depths, size, size // model.STRIDE
        ),
        loss=functools.partial(losses.training_loss, training_net, config.loss, size),
        optimizer=optim.optimizer(config.optim, config.steps, config.batch_size),
        train_data=train_data,
        evaluators={
            name: Evaluator(
                functools.partial(eval_data, name),
                score,
                metrics.summarise,
                config.eval_every,
                operator.itemgetter("nme"),
            )
            for name in config.data.evaluate
        },
        predict=predict.bind(net, mode, size),
        raw=functools.partial(model.raw, net, size),
        inputs={"image": f"B, {size}, {size}, 3"},
        from_torch=functools.partial(torch_weights.from_torch, net),
    )
