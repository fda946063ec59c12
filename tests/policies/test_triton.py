"""The Triton kernels, in Triton's interpreter: their arithmetic, not their speed, needs no GPU."""

import os

import pytest

from tests.common import run_python


def test_equal_to_pytorchs_operations() -> None:
    pytest.importorskip("triton", reason="Triton is published for Linux only")
    code = "from tests.policies.triton_equality import main; main()"
    assert run_python(code, env={**os.environ, "TRITON_INTERPRET": "1"}).strip() == "equal"
