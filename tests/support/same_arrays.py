"""Whether arrays came back as they were."""

from __future__ import annotations

from streamrec.state import Arrays


def assert_same(loaded: Arrays, saved: Arrays) -> None:
    assert {component: set(own) for component, own in loaded.items()} == {c: set(own) for c, own in saved.items()}
    for component, own in saved.items():
        for name, array in own.items():
            expected, came = array.astype(array.dtype.newbyteorder("=")), loaded[component][name]
            assert (came.dtype, came.shape, came.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
