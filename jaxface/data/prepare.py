"""Building a TFDS data set by name, offline, from what the user has obtained or from nothing at all."""

import importlib
import inspect
import pathlib
import pkgutil
import types
from collections.abc import Callable, Mapping, Sequence

import tensorflow_datasets as tfds
from absl import logging

from jaxface.data import builders
from jaxface.errors import UserError

# A data set has the name of its module, unless that is no name for a module.
RENAMED = {"ibug300w": "300w"}


def modules() -> dict[str, str]:
    """{data set: module of `jaxface.data.builders`}, all there are."""
    found = sorted(module.name for module in pkgutil.iter_modules(builders.__path__))
    return {RENAMED.get(module, module): module for module in found}


def is_prepared(dataset: str, data_dir: str) -> bool:
    """Whether some version of `dataset` lies under `data_dir`."""
    return any((pathlib.Path(data_dir) / dataset).glob("*/dataset_info.json"))


def prepare(
    dataset: str,
    data_dir: str,
    manual_dir: str = "",
    tools: Mapping[str, Callable] = types.MappingProxyType({}),
    **options: int | Sequence[str],
) -> tfds.core.DatasetInfo:
    """Builds `dataset` ("name" or "name/variant") under `data_dir` unless it is there, and returns what it holds.

    `options` go to the builder's `make`, and so do those of `tools`, functions from levels above, that it asks for by
    the name of an argument. UserError: an unknown data set or variant, options for one that is there already, a
    `manual_dir` that is missing or empty; what the builder itself refuses.
    """
    name, _, variant = dataset.partition("/")
    known = modules()
    if name not in known:
        raise UserError(f"unknown data set {name!r}; choose one of {', '.join(known)}")
    if manual_dir and not pathlib.Path(manual_dir).is_dir():
        raise UserError(f"manual_dir {manual_dir} is not a folder")
    if manual_dir and not any(pathlib.Path(manual_dir).iterdir()):
        raise UserError(f"manual_dir {manual_dir} is empty")
    module = importlib.import_module(f"jaxface.data.builders.{known[name]}")
    arguments = set(inspect.signature(module.make).parameters)
    unknown = set(options) - arguments
    if unknown:
        raise UserError(f"data set {name} has no option {', '.join(sorted(unknown))}")
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every configuration that is not listed beforehand
    wanted = {name: tools[name] for name in arguments & set(tools)}
    builder = module.make(variant, data_dir, **options, **wanted)
    if options and builder.is_prepared():
        raise UserError(f"{builder.data_path} is there already: remove it first, or choose another --data_dir")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not manual_dir and not builder.is_prepared():
        raise UserError(f"{dataset} needs --manual_dir: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    config = tfds.download.DownloadConfig(manual_dir=manual_dir or None, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except UserError as error:
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise UserError(f"{error}; expected {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}") from error
        raise
    return builder.info
