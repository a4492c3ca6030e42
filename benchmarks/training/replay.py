"""A copy of the state of training on its device, from which steps are repeated."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn


class StateCopy:
    """A copy of weights, averages and the optimiser's state. Its memory, once taken, is used again for every copy.

    modules: the weights, and their averages.
    """

    def __init__(self, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer) -> None:
        self.modules, self.optimizer = modules, optimizer
        self._kept: dict[Hashable, Tensor] = {}

    def take(self) -> None:
        """Copy the state as it is now. Raises torch.OutOfMemoryError."""
        live = self._live()
        self._kept = {key: self._kept[key] if key in self._kept else torch.empty_like(live[key]) for key in live}
        _copy(self._kept, live)

    def restore(self) -> None:
        """Set the state back to what it was when the copy was taken."""
        for parameter in [parameter for parameter in self.optimizer.state if (parameter, "step") not in self._kept]:
            del self.optimizer.state[parameter]  # its first update was after that
        _copy(self._live(), self._kept)

    def drop(self) -> None:
        """Give its memory back."""
        self._kept = {}

    def _live(self) -> dict[Hashable, Tensor]:
        live: dict[Hashable, Tensor] = {}
        for number, module in enumerate(self.modules):
            live |= {(number, name): value for name, value in module.state_dict().items()}
        for parameter, values in self.optimizer.state.items():
            live |= {(parameter, name): value for name, value in values.items()}
        return live


@torch.no_grad()
def _copy(to: Mapping[Hashable, Tensor], source: Mapping[Hashable, Tensor]) -> None:
    """Copy the tensors of the same key. The optimiser counts its steps on the CPU, everything else is on the device."""
    for device in {value.device for value in source.values()}:
        keys = [key for key, value in source.items() if value.device == device]
        torch._foreach_copy_([to[key] for key in keys], [source[key] for key in keys])  # type: ignore[attr-defined]
