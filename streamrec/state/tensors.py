"""Named arrays as a safetensors file, piece by piece: nothing is copied whole to be written.

Written after the format's own description: a header's length in 8 bytes, the header in JSON, the arrays' memory. Read
by the library, which checks all of it. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy

from streamrec.errors import StateError
from streamrec.state import Arrays

Array = np.ndarray[Any, Any]
DTYPES: Mapping[str, str] = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}
"""What can be kept, by numpy's name: the name that the format has for it."""
_ALIGNED = 8
_PIECE_BYTES = 8 * 1024 * 1024


def refuse_unkept(arrays: Arrays) -> None:
    """Raise if any of these would not come back.

    Raises:
        StateError: a component's name has a '/', or an array is of a kind that cannot be kept.
    """
    for component, own in arrays.items():
        if not component or "/" in component:
            raise StateError(f"component is named {component!r}, expected a name without '/'; no snapshot was made")
        for name, array in own.items():
            if array.dtype.name not in DTYPES:
                raise StateError(
                    f"array {component}/{name} is of {array.dtype}, expected one of {', '.join(DTYPES)}; "
                    "no snapshot was made"
                )


def pieces(arrays: Arrays) -> Iterator[bytes | memoryview]:
    """The file, in order. An array that does not lie in C order is copied, and let go of before the next."""
    flat = {f"{component}/{name}": array for component, own in arrays.items() for name, array in own.items()}
    ordered = sorted(flat.items(), key=lambda entry: (-entry[1].itemsize, entry[0]))  # so that each is aligned
    header, end = {}, 0
    for address, array in ordered:
        start, end = end, end + array.nbytes
        header[address] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
    said = msgspec.json.encode(header)
    said += b" " * (-len(said) % _ALIGNED)
    yield len(said).to_bytes(8, "little") + said
    for _, array in ordered:
        memory = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C").reshape(-1).view(np.uint8)
        for start in range(0, len(memory), _PIECE_BYTES):
            yield memory[start : start + _PIECE_BYTES].data


def sizes(arrays: Arrays) -> dict[str, int]:
    """Bytes by component."""
    return {name: sum(array.nbytes for array in own.values()) for name, own in arrays.items()}


def arrays_of(content: bytes, components: Collection[str]) -> dict[str, dict[str, Array]]:
    """The arrays of a file, which has none but of these components; they are the caller's own to write to.

    Raises:
        ValueError: it is no such file.
    """
    arrays: dict[str, dict[str, Array]] = {component: {} for component in components}
    try:
        for address, array in safetensors.numpy.load(content).items():
            component, _, name = address.partition("/")
            arrays[component][name] = array
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(repr(error)) from error
    return arrays
