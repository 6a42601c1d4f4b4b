"""What `import retally` offers: sorted, complete, documented, and light."""

from __future__ import annotations

import subprocess
import sys

import retally


def test_all_is_sorted_and_complete() -> None:
    assert retally.__all__ == sorted(retally.__all__)
    assert set(retally.__all__) == {*retally._HOMES, "__version__"}
    assert set(dir(retally)) == set(retally.__all__)


def test_every_name_loads_and_is_documented() -> None:
    for name in retally.__all__:
        value = getattr(retally, name)
        assert name == "__version__" or (value.__doc__ or "").strip(), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(retally, "Nothing")


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, retally; print([m for m in ('openai', 'web3', 'torch', 'retally.client') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_client_loads_no_inference_and_no_web3() -> None:
    heavy = "('retally.inference', 'web3', 'torch', 'vllm', 'tokenizers')"
    code = f"import sys, retally.client; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
