"""Everything about a configuration that can be found out before the first file is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...methods.networks.registry import build_factory
from ...methods.parts.messages import cut
from ...methods.parts.options import OptionError
from ..common.devices import check_device
from ..common.errors import UsageError
from ..config.averages import HEADLINE
from ..config.compose import Cell
from ..config.plugins import active, blamed, require
from ..config.schema import RunConfig
from ..data.base import DataInfo
from ..data.registry import describe_dataset
from ..metrics.checks import check_metrics
from ..runs.folder import Run
from ..training.compiled import missing_for_compiling
from ..training.model import Model, outline_model

MOST_PARAMETERS = 10**12  # no machine holds more; what is above is a mistake


def check_cells(cells: Sequence[Cell], out: Path | None = None, *, here: bool = True) -> None:
    """Build what the cells will build, once a configuration.

    out: their output folder, for cells that start from finished ones. here: whether they run on this machine, which
    then must have their device.

    Raises:
        UsageError: a missing data set, an unknown part, metric or device, a refused value or combination, weights to
            start from that do not fit.
    """
    check_configurations([cell.config for cell in cells], out, here=here)


def check_configurations(configs: Sequence[RunConfig], out: Path | None = None, *, here: bool = True) -> None:
    """The same for resolved configurations; the first one of each group stands for all.

    No sample is read, nothing is downloaded, and networks are built without memory for their weights.
    """
    for config in {config.cell.group: config for config in configs}.values():
        require(config)
        with blamed([plugin.folder for plugin in active()]):
            try:
                _check(config, out, here=here)
            except OptionError as error:
                raise UsageError(str(error)) from None


def _check(config: RunConfig, out: Path | None, *, here: bool) -> None:
    _check_average(config)
    build_factory(config.network, shape=(1,), classes=0)  # before looking for data
    if here:
        check_device(config.run.device)
        if config.train.compile and (missing := missing_for_compiling()):
            raise UsageError(f"train.compile=true needs {missing}")
    data = describe_dataset(config.data)
    start = config.cell.start
    model = _outlined(config, data, Run(out / start.cell) if out and start else None)
    check_metrics(data, config.eval.metrics)
    for nfe in config.eval.nfe:
        _check_steps(model, nfe)


def _check_average(config: RunConfig) -> None:
    extra = [name for name in config.train.averages if name != HEADLINE]
    if config.eval.ema is not None and config.eval.ema not in extra:
        choices = f": {', '.join(extra)}" if extra else ", which is empty"
        raise UsageError(
            f"eval.ema is '{config.eval.ema}', must be null for train.ema or one of train.ema_extra{choices}"
        )


def _outlined(config: RunConfig, data: DataInfo, first: Run | None) -> Model:
    try:
        model = outline_model(config, data, first)
    except (RuntimeError, MemoryError, OverflowError) as error:  # of torch, for tensors of more than 2^63 bytes
        reason = cut((str(error) or type(error).__name__).splitlines()[0], 200)
        raise UsageError(f"the networks of {config.cell.method} cannot be built with these sizes ({reason})") from None
    parameters = sum(weight.numel() for weight in model.weights.parameters())
    if parameters > MOST_PARAMETERS:
        raise UsageError(
            f"the networks of {config.cell.method} have {parameters:.1e} parameters in all, must be at most "
            f"{MOST_PARAMETERS:.0e}: reduce network.*"
        )
    return model


def _check_steps(model: Model, nfe: int) -> None:
    try:
        model.method.sampler.check_nfe(model.method.times, nfe)
    except ValueError as error:
        raise UsageError(str(error)) from None
