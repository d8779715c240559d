"""Where the work of a run is done, and by how many at once; what comes out is the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    engine: str = "local"
    n_processes: int = 1  # of ray: 0 is as many as the cluster has cores, or GPUs
    address: str | None = None  # of ray: of a cluster that is there; None starts one of this machine alone
