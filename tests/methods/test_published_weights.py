"""Published pickles are read without running anything in them, and load by one rule."""

from __future__ import annotations

import functools
import io
import logging
import math
import os
import pickle
import pickletools
import re
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from consistency_bench.methods.networks import checkpoints
from consistency_bench.methods.networks.checkpoints import CheckpointError, match_weights, read_pickle
from consistency_bench.methods.networks.pickles import RestrictedUnpickler
from consistency_bench.methods.networks.registry import build_factory

from ..published_files import Module, published_modules, write_edm, write_edm2

OPTIONS = {"channels": 16, "channel_mult": [1, 2], "blocks": 1, "attn_resolutions": [8]}


def network(kind: str, classes: int = 0, **options: Any) -> nn.Module:
    return build_factory({"kind": kind, **OPTIONS, **options}, (3, 16, 16), classes).network()


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "classes"), [("ddpmpp", 0), ("ddpmpp", 10), ("ncsnpp", 0), ("adm", 10)])
def test_names_and_values_of_edm_s_files(kind: str, classes: int, tmp_path: Path) -> None:
    expected = network(kind, classes)
    write_edm(tmp_path / "file.pkl", expected)
    tensors = read_pickle(tmp_path / "file.pkl")
    assert tensors.pop("model.map_augment.weight").shape[1] == 9
    compare(tensors, {f"model.{name}": value for name, value in expected.state_dict().items()})


def test_names_and_values_of_edm2_s_files(tmp_path: Path) -> None:
    expected = network("edm2", 10)
    write_edm2(tmp_path / "file.pkl", expected)
    tensors = read_pickle(tmp_path / "file.pkl")
    beside = {name: tensors.pop(name).shape for name in list(tensors) if not name.startswith("unet.")}
    assert beside == {"logvar_fourier.freqs": (128,), "logvar_fourier.phases": (128,), "logvar_linear.weight": (1, 128)}
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    compare(tensors, {f"unet.{name}": value for name, value in expected.state_dict().items()})


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


def test_buffers_that_a_state_dict_leaves_out_are_left_out(tmp_path: Path) -> None:
    module = Module({"weight": torch.ones(2)}, {"kept": torch.ones(1), "not_kept": torch.ones(1)})
    module.state["_non_persistent_buffers_set"] = {"not_kept"}
    assert set(read(tmp_path, {"ema": module})) == {"weight", "kept"}


# --- nothing is executed ---------------------------------------------------------------------------------------------


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def read(folder: Path, content: object) -> dict[str, Tensor]:
    with published_modules():
        (folder / "file.pkl").write_bytes(pickle.dumps(content))
    return read_pickle(folder / "file.pkl")


CALLS: dict[str, Callable[[Path], Call]] = {
    "posix.system": lambda mark: Call(os.system, f"touch {mark}"),
    "subprocess.Popen": lambda mark: Call(subprocess.Popen, ["touch", str(mark)]),
    "builtins.eval": lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.exec": lambda mark: Call(exec, f"open({str(mark)!r}, 'w')"),
    "builtins.getattr": lambda mark: Call(getattr, mark, "touch"),
    "functools.partial": lambda mark: Call(functools.partial, os.system, f"touch {mark}"),
    "torch.serialization.load": lambda mark: Call(torch.load, str(mark)),
    "torch.storage.UntypedStorage": lambda mark: Call(torch.UntypedStorage, 4),
    "pickle._loads": lambda mark: Call(pickle._loads, b"N."),
    f"{Path.__module__}.PosixPath": lambda mark: Call(type(mark), "x"),
}


def in_ema(call: Call) -> object:
    return {"ema": call}


def beside_ema(call: Call) -> object:
    return {"ema": Module({"weight": torch.ones(2)}), "loss_fn": call}


def among_state(call: Call) -> object:
    module = Module({"weight": torch.ones(2)})
    module.state["extra"] = [call]
    return {"ema": module}


def argument_of_an_inert_record(call: Call) -> object:
    return {"ema": Module({"weight": torch.ones(2)}), "loss_fn": Call(nn.Linear, call)}


def argument_of_a_container(call: Call) -> object:
    return {"ema": Module({"weight": torch.ones(2)}), "loss_fn": Call(OrderedDict, [(1, call)])}


PLACES = [in_ema, beside_ema, among_state, argument_of_an_inert_record, argument_of_a_container]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("place", PLACES)
def test_a_foreign_global_is_refused_by_name(name: str, place: Callable[[Call], object], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(
        CheckpointError, match=rf"file\.pkl: refused, because it asks for {name}, which weights do not need$"
    ):
        read(tmp_path, place(CALLS[name](mark)))
    assert not mark.exists()


def test_plain_pickle_would_make_those_calls(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(CALLS["posix.system"](mark)))
    assert mark.exists()


def nested(content: bytes) -> object:
    """A file whose tensor has this for a storage."""
    storage = Call(torch.storage._load_from_bytes, content)
    return {"ema": Module(), "data": Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})}


def test_a_storage_that_is_a_pickle_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    call = CALLS["posix.system"](mark)
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save(call, zipped)
    torch.save(call, legacy, _use_new_zipfile_serialization=False)
    for content in (pickle.dumps(call), zipped.getvalue(), legacy.getvalue(), b"", b"text"):
        with pytest.raises(CheckpointError, match="refused, because a tensor's storage in it holds something else"):
            read(tmp_path, nested(content))
        assert not mark.exists()


def test_the_source_of_modules_stays_text(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    write_edm(tmp_path / "file.pkl", network("ddpmpp"), source=f"open({str(mark)!r}, 'w').write('run')")
    assert mark.name.encode() in (tmp_path / "file.pkl").read_bytes()
    read_pickle(tmp_path / "file.pkl")
    assert not mark.exists()


def test_nothing_can_be_reached_through_an_inert_global(tmp_path: Path) -> None:
    """`torch.nn.modules.module` imports modules of its own; a dotted name would find what is in them."""
    mark = tmp_path / "mark"
    code = b"\x80\x04\x8c\x17torch.nn.modules.module\x8c\x10functools.reduce\x93\x8c" + assembled(f"touch {mark}")
    (tmp_path / "file.pkl").write_bytes(code + b"\x85R.")
    with pytest.raises(CheckpointError, match="is not a readable pickle of EDM or EDM2"):
        read_pickle(tmp_path / "file.pkl")
    assert not mark.exists()


def assembled(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def test_functions_of_torch_cannot_be_changed(tmp_path: Path) -> None:
    """BUILD sets attributes on whatever lies on the stack, also on a function."""
    before = torch._utils._rebuild_tensor_v2.__defaults__
    code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b."
    assert "BUILD" in [operation.name for operation, *_ in pickletools.genops(code)]
    (tmp_path / "file.pkl").write_bytes(code)
    with pytest.raises(CheckpointError, match="is not a readable pickle"):
        read_pickle(tmp_path / "file.pkl")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def named(full: str) -> bytes:
    """The opcode that puts a global on the stack."""
    module, _, name = full.rpartition(".")
    return f"c{module}\n{name}\n".encode()


TABLE = [
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.storage._load_from_bytes",
    "torch_utils.persistence._reconstruct_persistent_obj",
    "collections.OrderedDict",
    "dnnlib.util.EasyDict",
    "builtins.set",
    "torch.nn.Linear",
]


def written() -> dict[str, object]:
    """The attributes of what the reader is made of, and of these attributes: what a file could leave behind."""
    return {
        f"{owner}.{name}.{attribute}": value
        for owner, holder in vars(checkpoints).items()
        for name, member in [("", holder), *getattr(holder, "__dict__", {}).items()]
        for attribute, value in getattr(member, "__dict__", {}).items()
        if attribute.startswith("planted")
    }


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("state", [b"}X\x07\x00\x00\x00plantedK\x01s", b"N}X\x07\x00\x00\x00plantedK\x01s\x86"])
def test_a_file_leaves_nothing_behind_in_what_it_may_name(name: str, state: bytes, tmp_path: Path) -> None:
    """BUILD with a state of attributes, as a dictionary and as slots."""
    (tmp_path / "file.pkl").write_bytes(b"\x80\x02" + named(name) + state + b"b.")
    with pytest.raises(CheckpointError, match="is not a readable pickle"):
        read_pickle(tmp_path / "file.pkl")
    assert written() == {}


def test_the_table_cannot_be_written_to() -> None:
    with pytest.raises(TypeError):
        checkpoints._TABLE["posix.system"] = os.system  # type: ignore[index]


@pytest.mark.parametrize("protocol", [2, 4])
def test_sets_are_read_under_both_their_names(protocol: int) -> None:
    content = pickle.dumps({"not_kept"}, protocol=protocol)
    assert (b"__builtin__\nset" in content) == (protocol == 2)
    assert RestrictedUnpickler(io.BytesIO(content), checkpoints._lookup).load() == {"not_kept"}


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.9999])
def test_a_truncated_file(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    write_edm(path, network("ddpmpp"))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError, match="is not a readable pickle of EDM or EDM2") as refused:
        read_pickle(path)
    assert "\n" not in str(refused.value)


CONTENTS = {
    "no ema": {"model": Module()},
    "not a dictionary": [1, 2],
    "ema is no module": {"ema": {"weight": torch.ones(2)}},
    "state is no dictionary": {"ema": Call(nn.Linear)},
    "nothing": None,
}


@pytest.mark.parametrize("content", [b"text", b"\x80\x04N.", b"\x80\x04\x8c\x01aQ.", b"PK\x03\x04"])
def test_not_such_a_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a readable pickle of EDM or EDM2"):
        read_pickle(tmp_path / "file.pkl")


@pytest.mark.parametrize("content", CONTENTS.values(), ids=list(CONTENTS))
def test_a_pickle_of_something_else(content: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a readable pickle of EDM or EDM2"):
        read(tmp_path, content)


def test_a_parameter_that_is_no_tensor(tmp_path: Path) -> None:
    module = Module()
    module.state["_buffers"]["freqs"] = [1.0]
    with pytest.raises(CheckpointError, match=r"file\.pkl: layer\.freqs is not a tensor"):
        read(tmp_path, {"ema": Module(children={"layer": module})})


def test_a_module_that_holds_itself(tmp_path: Path) -> None:
    container = nn.ModuleDict()
    vars(container)["_modules"] = {"self": container}
    with pytest.raises(CheckpointError, match="is not a readable pickle"):
        read(tmp_path, {"ema": container})


# --- the rule of loading ---------------------------------------------------------------------------------------------


def tensors_of(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: value for name, value in module.state_dict().items()}


def test_prefix_and_type_are_taken_off() -> None:
    expected = network("ncsnpp")
    tensors = {name: value.half() for name, value in tensors_of(expected, "model.").items()}
    tensors["model.map_augment.weight"] = tensors["other"] = torch.ones(2)
    matched = match_weights(expected, tensors, prefix="model.", ignorable=("model.map_augment.weight", "other"))
    assert matched.ignored == ("model.map_augment.weight", "other")
    assert list(matched.weights) == list(expected.state_dict())
    assert "map_noise.freqs" in matched.weights
    for name, value in expected.state_dict().items():
        assert matched.weights[name].dtype == torch.float32
        torch.testing.assert_close(matched.weights[name], value, rtol=1e-3, atol=1e-5)


def test_weights_do_not_share_memory_with_the_file() -> None:
    module = nn.Linear(2, 2)
    tensors = tensors_of(module)
    matched = match_weights(module, tensors)
    tensors["weight"].zero_()
    assert matched.weights["weight"].all()


@pytest.mark.parametrize("lacking", ["dec.16x16_aux_conv.bias", "enc.8x8_down.conv0.resample_filter"])
def test_a_missing_name_is_an_error(lacking: str) -> None:
    module = network("ddpmpp")
    tensors = tensors_of(module)
    del tensors[lacking]
    with pytest.raises(CheckpointError, match=f"^1 tensor of the network missing: {lacking}$"):
        match_weights(module, tensors)


def test_many_missing_names_are_counted() -> None:
    with pytest.raises(CheckpointError, match=r"^\d\d+ tensors of the network missing: map_layer0.weight, .*, …; \d"):
        match_weights(network("ddpmpp"), tensors_of(network("ddpmpp"), "model."))


def test_an_unexpected_name_is_an_error() -> None:
    module = network("ddpmpp")
    tensors = {**tensors_of(module, "model."), "model.foo": torch.ones(1), "bar": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"^1 tensor that the network does not have: bar$"):
        match_weights(module, tensors, prefix="model.", ignorable=("model.foo",))


@pytest.mark.parametrize("name", ["map_layer0.weight", "enc.8x8_down.skip.resample_filter"])
def test_another_shape_is_an_error(name: str) -> None:
    module = network("ddpmpp")
    tensors = tensors_of(module)
    shape = list(tensors[name].shape)
    tensors[name] = tensors[name][None]
    with pytest.raises(CheckpointError, match=f"^{name} has the shape ") as refused:
        match_weights(module, tensors)
    assert str(refused.value).endswith(f"{[1, *shape]}, the network's {shape}")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("name", ["map_layer0.weight", "enc.8x8_down.skip.resample_filter"])
def test_values_that_are_not_finite_are_an_error(name: str, value: float) -> None:
    module = network("ddpmpp")
    tensors = tensors_of(module)
    tensors[name] = tensors[name].double()  # 1e300 is finite there
    tensors[name].flatten()[-1] = value
    with pytest.raises(CheckpointError, match=f"^{name} holds values that are not finite$"):
        match_weights(module, tensors)


def test_the_fourier_scale_that_comes_with_weights_is_told(caplog: pytest.LogCaptureFixture) -> None:
    fresh, file = network("ncsnpp", channels=256, fourier_scale=0.02), network("ncsnpp", channels=256, fourier_scale=16)
    with caplog.at_level(logging.INFO):
        match_weights(fresh, tensors_of(file))
    scales = [float(number) for number in re.findall(r"\d+\.?\d*", caplog.messages[-1])]
    assert "Fourier scale" in caplog.messages[-1]
    assert scales == pytest.approx([16, 0.02], rel=0.2)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        match_weights(network("ddpmpp"), tensors_of(network("ddpmpp")))
    assert not caplog.messages
