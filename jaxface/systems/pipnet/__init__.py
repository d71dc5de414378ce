"""PIPNet, pixel-in-pixel landmark detection: Jin, Liao, Shao, IJCV 2021."""

import functools
import operator
from collections.abc import Iterator

import ml_collections

from jaxface import config_values, optim, run_length
from jaxface.system import Batch, ConversionInput, Evaluator, System
from jaxface.systems.pipnet import decoding, losses, meanface, metrics, model, predict, torch_weights
from jaxface.systems.pipnet.values import VALUES

CONVERSION_INPUTS = {
    "meanface": ConversionInput("model.meanface", meanface.read, "meanface.txt, 2L numbers in the order x y x y …")
}


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` with the mean face, the number of landmarks, the flip map and the steps of its data set.

    Raises UserError for values outside their range.
    """
    config_values.check(config, VALUES)
    resolved = run_length.resolve(meanface.resolve(config))
    config_values.check(resolved, VALUES)
    return resolved


def build(config: ml_collections.ConfigDict) -> System:
    """The system of `config` (configs/pipnet.py), resolved.

    Raises UserError if values do not fit together or no mean face is available.
    """
    config = resolve(config)
    net = model.model_from_config(config.model)
    face = decoding.check_meanface(config.model.meanface, config.model.landmarks)
    table = decoding.neighbor_table(face, config.model.neighbors)
    votes = decoding.votes(table, config.model.merge)
    size = config.model.image_size

    def train_data(step: int) -> Iterator[Batch]:
        from jaxface.systems.pipnet import data, self_training_data

        if config.data.pseudo_labels:
            return self_training_data.mixed_stream(config, step)
        return data.train_stream(config, step)

    def eval_data(name: str) -> Iterator[Batch]:
        from jaxface.systems.pipnet import data

        return data.eval_stream(config, name)

    score = functools.partial(metrics.score, net, votes)
    return System(
        init=functools.partial(model.init, net, size),
        loss=functools.partial(losses.training_loss, net, table, config.loss),
        optimizer=optim.optimizer(config.optim, config.steps, config.batch_size),
        train_data=train_data,
        evaluators={
            name: Evaluator(
                functools.partial(eval_data, name),
                score,
                metrics.summarise,
                config.eval_every,
                operator.itemgetter("nme_pixels"),
            )
            for name in config.data.evaluate
        },
        predict=predict.bind(net, votes, config.model, face),
        raw=functools.partial(model.raw, net, votes),
        inputs={"image": f"B, {size}, {size}, 3"},
        from_torch=functools.partial(torch_weights.from_torch, net, config.model.backbone),
    )
