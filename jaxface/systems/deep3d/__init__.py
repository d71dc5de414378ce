"""Deep3DFaceReconstruction: Deng et al., CVPR Workshops 2019. `build` makes the system of a config."""

import functools
from collections.abc import Iterator

import ml_collections

from jaxface import optim
from jaxface.system import Batch, Evaluator, System
from jaxface.systems.deep3d import face_model, metrics, model, predict, torch_weights, training


def build(config: ml_collections.ConfigDict) -> System:
    """The system of `config` (configs/deep3d.py). Raises UserError for values that do not fit together.

    Coefficient counts that are 0 are filled in: as many as the configured head has.
    """
    face_model.complete(config)
    net = model.model_from_config(config.model)
    face = functools.partial(face_model.configured, config)
    size = config.model.image_size

    def train_data(step: int) -> Iterator[Batch]:
        from jaxface.systems.deep3d import data

        return data.train_stream(config, step)

    def eval_data(name: str) -> Iterator[Batch]:
        from jaxface.systems.deep3d import data

        return data.eval_stream(config, name)

    return System(
        init=functools.partial(model.init, net, size),
        frozen=functools.partial(training.frozen, config),
        prepare=functools.partial(training.prepare, config),
        loss=functools.partial(training.training_loss, net, config),
        optimizer=optim.optimizer(config.optim, config.steps),
        train_data=train_data,
        evaluators={
            name: Evaluator(
                functools.partial(eval_data, name), metrics.score(net, name), metrics.summarise, config.eval_every
            )
            for name in config.data.evaluate
        },
        predict=predict.bind(net, face, size),
        raw=functools.partial(model.raw, net, face),
        from_torch=functools.partial(torch_weights.from_torch, net, config.model.backbone),
    )
