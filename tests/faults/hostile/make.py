"""Files that mean harm, written by `python make.py FOLDER [CANARY]`: each function makes one, and says what is in it.

Whoever runs what is in them makes the file CANARY. They are made, and not kept, so that anybody can see what they hold.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Bomb:
    """Unpickling it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


def checkpoint_zip(canary: Path) -> bytes:
    """torch's format, with an object in the place of the state."""
    file = io.BytesIO()
    torch.save({"weights": Bomb(canary), "averages": {}, "optimizer": {}, "state": {"images": 1}}, file)
    return file.getvalue()


def checkpoint_pickle(canary: Path) -> bytes:
    """torch's format of long ago: a bare pickle."""
    file = io.BytesIO()
    torch.save(Bomb(canary), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def bare_pickle(canary: Path) -> bytes:
    return pickle.dumps({"ema": Bomb(canary)})


def huge_header(_: Path) -> bytes:
    """safetensors that says its header has 2^60 bytes."""
    return struct.pack("<Q", 1 << 60) + b"{}"


def lying_offsets(_: Path) -> bytes:
    """safetensors whose tensor lies beyond the end of the file."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}).encode()
    return struct.pack("<Q", len(header)) + header


def yaml_object(canary: Path) -> bytes:
    return f"cell: !!python/object/apply:os.system [\"touch '{canary}'\"]\n".encode()


def yaml_laughs(_: Path) -> bytes:
    """Aliases of aliases: a billion strings, if anybody wrote them out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines).encode()


def yaml_deep(_: Path) -> bytes:
    return b"cell: " + b"[" * 5000


def json_deep(_: Path) -> bytes:
    return b"[" * 200_000


def json_lines_deep(_: Path) -> bytes:
    return b'{"a":' * 100_000 + b"\n{}\n"


def arrays_of_objects(canary: Path) -> bytes:
    """npz whose array is a pickle."""
    file = io.BytesIO()
    np.savez(file, samples=np.array([Bomb(canary)], dtype=object))
    return file.getvalue()


def _npy_zip(header: str, packing: int = zipfile.ZIP_STORED) -> bytes:
    """npz whose one array, `samples`, has this header."""
    text = header.encode().ljust(118) + b"\n"
    return _zipped({"samples.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text}, packing)


def arrays_of_a_terabyte(_: Path) -> bytes:
    return _npy_zip("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")


def arrays_with_a_torn_header(_: Path) -> bytes:
    return _npy_zip("{'descr': (")


def arrays_packed_in_an_unknown_way(_: Path) -> bytes:
    content = bytearray(_npy_zip("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }"))
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(mark) + place] = 99
    return bytes(content)


def arrays_that_are_encrypted(_: Path) -> bytes:
    content = bytearray(_npy_zip("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }"))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    return bytes(content)


def array_bomb(_: Path) -> bytes:
    """npz of some hundred kilobytes that unpacks to 320 megabytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("samples.npy", "w") as entry:
        for _ in range(5):
            entry.write(bytes(64 << 20))
    return file.getvalue()


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def image_bomb(_: Path) -> bytes:
    """A picture of 30 gigapixels in a hundred bytes, in a zip file."""
    return _zipped({"img0.png": _png(175_000, 175_000)})


def entry_bomb(_: Path) -> bytes:
    """A picture of 64 × 64 whose file is a hundred megabytes of zeros, packed."""
    return _zipped({"img0.png": _png(64, 64) + bytes(100 << 20)})


def zip_slip(canary: Path) -> bytes:
    """A zip file whose entry is to be unpacked far outside."""
    name = "../" * 20 + str(canary).lstrip("/") + ".png"
    return _zipped({name: _png(64, 64), str(canary): b"x"})


def _zipped(files: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


FILES: dict[str, Callable[[Path], bytes]] = {
    "checkpoint-zip.pt": checkpoint_zip,
    "checkpoint-pickle.pt": checkpoint_pickle,
    "pickle.pkl": bare_pickle,
    "huge-header.safetensors": huge_header,
    "lying-offsets.safetensors": lying_offsets,
    "object.yaml": yaml_object,
    "laughs.yaml": yaml_laughs,
    "deep.yaml": yaml_deep,
    "deep.json": json_deep,
    "deep.jsonl": json_lines_deep,
    "objects.npz": arrays_of_objects,
    "terabyte.npz": arrays_of_a_terabyte,
    "torn-header.npz": arrays_with_a_torn_header,
    "unknown-packing.npz": arrays_packed_in_an_unknown_way,
    "encrypted.npz": arrays_that_are_encrypted,
    "bomb.npz": array_bomb,
    "image-bomb.zip": image_bomb,
    "entry-bomb.zip": entry_bomb,
    "slip.zip": zip_slip,
}


def make(folder: Path, canary: Path) -> None:
    """Write all of them into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content(canary))


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(sys.argv[1]) / "canary")
