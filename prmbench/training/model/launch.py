"""How the processes of a run were launched, by the variables of ``accelerate launch``."""

from __future__ import annotations

import os

from prmbench.errors import UserError


def launch_divides() -> bool:
    """Whether the launch may divide weights, so that models are loaded on the CPU and no device ever holds a whole one."""
    return uses_fsdp() or _is_set("ACCELERATE_USE_DEEPSPEED")


def uses_fsdp() -> bool:
    """Whether the launch asks for FSDP."""
    return _is_set("ACCELERATE_USE_FSDP")


def check_launch() -> None:
    """Refuse a launch that cannot train.

    Raises:
        UserError: It is FSDP of the first version.
    """
    if uses_fsdp() and (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise UserError(
            f"fsdp_version {version}: only FSDP2 gathers layers one by one, as log-probs need them; set fsdp_version: 2 in the "
            "launch configuration, or take one of training/accelerate"
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")
