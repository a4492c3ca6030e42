"""Everything about a configuration that can be found out before the first file is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...methods.networks.registry import build_factory
from ...methods.parts.options import OptionError
from ..common.devices import check_device
from ..common.errors import UsageError
from ..config.averages import HEADLINE
from ..config.compose import Cell
from ..config.schema import RunConfig
from ..data.base import Dataset
from ..data.registry import load_dataset
from ..metrics.evaluate import Evaluator
from ..training.model import Model, build_model


def check_cells(cells: Sequence[Cell], *, here: bool = True) -> None:
    """Build what the cells will build, once a configuration.

    here: whether they run on this machine, which then must have their device.

    Raises:
        UsageError: a missing data set, an unknown part, metric or device, a refused value or combination.
    """
    check_configurations([cell.config for cell in cells], here=here)


def check_configurations(configs: Sequence[RunConfig], *, here: bool = True) -> None:
    """The same for resolved configurations; of those of one group the first is looked at."""
    datasets: dict[str, Dataset] = {}
    served: set[str] = set()
    for config in {config.cell.group: config for config in configs}.values():
        try:
            _check_average(config)
            build_factory(config.network, shape=(1,), classes=0)  # before data is looked for, or downloaded
            if here:
                check_device(config.run.device)
            key = repr(config.data)
            if key not in datasets:
                datasets[key] = load_dataset(config.data)
            model = build_model(config, datasets[key], torch.device("cpu"))
            asked = repr((config.data, config.eval.metrics))
            if asked not in served:
                Evaluator(datasets[key], config.eval.metrics, torch.device("cpu"))
                served.add(asked)
            for nfe in config.eval.nfe:
                _check_steps(model, nfe)
            del model
        except OptionError as error:
            raise UsageError(str(error)) from None


def _check_average(config: RunConfig) -> None:
    extra = [name for name in config.train.averages if name != HEADLINE]
    if config.eval.ema is not None and config.eval.ema not in extra:
        choices = f": {', '.join(extra)}" if extra else ", which is empty"
        raise UsageError(
            f"eval.ema is '{config.eval.ema}', must be null for train.ema or one of train.ema_extra{choices}"
        )


def _check_steps(model: Model, nfe: int) -> None:
    try:
        model.method.sampler.check_nfe(model.method.times, nfe)
    except ValueError as error:
        raise UsageError(str(error)) from None
