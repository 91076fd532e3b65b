"""Silence the libraries that prmbench calls."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Turn off the bars, the chatter and the telemetry of the libraries. TRL, for one, reports every trainer that it makes."""
    from datasets import disable_progress_bars
    from huggingface_hub import constants
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    constants.HF_HUB_DISABLE_TELEMETRY = True
