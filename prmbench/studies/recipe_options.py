"""What a folder of recipes does not say by itself: on which problems and traces its models are measured (``world.yaml``)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prmbench.studies.measure_reward_models import BEST_OF


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RolloutOptions(_Options):
    """The rollouts that reward models are trained on."""

    problems: str | None = Field(
        None, description="file of problems, or a problem set by name; null: those of policy optimisation"
    )
    n: int = Field(5, ge=1, description="completions of a problem")
    limit: int | None = Field(None, ge=1, description="number of problems, from the start; null: all")


class TraceOptions(_Options):
    """The labelled traces."""

    data: str | None = Field(None, description="folder of traces; null: $PRMBENCH_DATA_DIR, then the Hub")
    subsets: list[str] = Field(
        ["gsm8k", "math", "olympiadbench", "omnimath"], min_length=1, description="their subsets"
    )
    shifted: list[str] | None = Field(
        None, description="the subsets whose format is not the one that reward models learn from; null: all of them"
    )
    limit: int | None = Field(None, ge=1, description="number of traces of each subset; null: all")

    @model_validator(mode="after")
    def _known(self) -> TraceOptions:
        if other := [name for name in self.shifted or () if name not in self.subsets]:
            raise ValueError(f"traces.shifted '{other[0]}': expected some of {', '.join(self.subsets)}")
        if self.shifted == []:
            raise ValueError("traces.shifted is empty: claims on the shift need one; leave it out for all of them")
        return self


class RerankOptions(_Options):
    """The completions that reward models choose from."""

    problems: list[str] = Field(["math500", "minerva_math"], min_length=1, description="problem sets, or files")
    n: int = Field(max(BEST_OF), ge=max(BEST_OF), description="completions of a problem")
    limit: int | None = Field(None, ge=1, description="number of problems of each set; null: all")


class ProbeOptions(_Options):
    """TD against rollouts, and candidate sets."""

    problems: list[str] = Field(["math500"], min_length=1, description="problem sets, or files")
    branches: int = Field(2500, ge=1, description="branches of the TD probe")
    rollouts_per_branch: int = Field(1, ge=1, description="rollouts of each branch")
    limit: int | None = Field(None, ge=1, description="number of problems of each set; null: the probe's own")


class WorldOptions(_Options):
    """All of ``world.yaml``."""

    rollouts: RolloutOptions = Field(default_factory=lambda: RolloutOptions(), description="to train reward models on")
    traces: TraceOptions = Field(default_factory=lambda: TraceOptions(), description="for ProcessBench")
    best_of_n: RerankOptions = Field(default_factory=lambda: RerankOptions(), description="for Best-of-N")
    probes: ProbeOptions = Field(default_factory=lambda: ProbeOptions(), description="for the probes")
    seeds: int = Field(1, ge=1, description="number of seeds where none is asked for")
    note: str = Field("", description="a sentence for the page, such as what its figures are worth")
