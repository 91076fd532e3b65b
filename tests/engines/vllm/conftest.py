from __future__ import annotations

import pytest
import support


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Heads of width 32: vLLM's kernels for CPUs know no narrower ones."""
    return support.save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", hidden_size=128, intermediate_size=128)


@pytest.fixture(scope="module")
def one_process(vllm_installed):
    """VLLM computes in the process of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield patch
