"""Deep3DFaceReconstruction: Deng et al., CVPR Workshops 2019."""

import functools
from collections.abc import Iterator

import ml_collections

from jaxface import config_values, optim, prepared_data, run_length
from jaxface.system import Batch, Evaluator, System
from jaxface.systems.deep3d import (
    clip,
    decoder,
    face_model,
    metrics,
    model,
    multiview,
    objective,
    predict,
    torch_weights,
)
from jaxface.systems.deep3d.values import VALUES


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` with the steps of its data sets, where coefficient counts of 0 are those of the head.

    Raises UserError for values outside their range.
    """
    config_values.check(config, VALUES)
    return run_length.resolve(face_model.resolve(config))


def build(config: ml_collections.ConfigDict) -> System:
    """The system of `config` (configs/deep3d.py), resolved. Raises UserError if values do not fit together."""
    config = resolve(config)
    net, size, has_cnet = model.model_from_config(config.model), config.model.image_size, config.model.confidence
    parts, has_size = model.parts_from_config(config.model), config.model.metric_size
    combines = has_cnet or net.regressor == "map_fit"
    combine = functools.partial(multiview.combine, net, has_cnet) if combines else None
    size_ratio = functools.partial(model.size_ratio, net) if has_size else None
    regress = functools.partial(model.regress, net)
    load_face = functools.partial(face_model.from_config, config)
    # Refinement leaves the lips alone; published networks have no refinement, and their output stays as it is.
    expression_modes = functools.partial(decoder.expression_modes, config, net.sizes.expression)
    network = predict.build_network(
        regress, load_face, net.sizes, size, combine, size_ratio, closes_lips=net.refine > 0
    )

    def train_data(step: int) -> Iterator[Batch]:
        from jaxface.systems.deep3d import data

        return data.train_stream(config, step)

    def evaluator(name: str) -> Evaluator:
        def examples() -> Iterator[Batch]:
            from jaxface.systems.deep3d import data

            return data.eval_stream(config, name)

        score = metrics.score(net, _shows_head(name, config.head.name), has_cnet, has_size)
        return Evaluator(examples, score, metrics.summarise, config.eval_every)

    return System(
        init=functools.partial(model.init, net, size, parts, load_face=load_face),
        warm_start=functools.partial(model.warm_start, net, size, parts),
        constants=functools.partial(objective.constants, config),
        loss=functools.partial(objective.training_loss, net, config),
        optimizer=optim.optimizer(config.optim, config.steps, config.batch_size),
        train_data=train_data,
        evaluators={name: evaluator(name) for name in config.data.evaluate},
        predict=functools.partial(predict.predict, network),
        predict_multiview=functools.partial(predict.predict_multiview, network),
        reconstruct_clip=functools.partial(clip.reconstruct_clip, network, expression_modes),
        tools=("detect",),
        takes_five=True,
        raw=functools.partial(model.raw, net, functools.partial(face_model.on_device, config)),
        inputs={"image": f"B, {size}, {size}, 3"},
        head=functools.partial(decoder.decoder, load_face, config),
        from_torch=functools.partial(torch_weights.from_torch, net, config.model.backbone),
    )


def _shows_head(dataset: str, head: str) -> bool:
    """Whether a data set "rendered_{heads,sets}/HEAD[_portraits][:SPLIT]" shows heads of the model `head`."""
    name, _ = prepared_data.parse_name(dataset, "test")
    return name.partition("/")[2].partition("_")[0] == head
