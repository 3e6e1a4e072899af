"""What one attempt is told: the record in DREAMBOOTH_RUN, made by the operator and read by the job."""

from __future__ import annotations

from dreambooth_api.base import Report
from dreambooth_api.spec import TrainingJobSpec


class Run(Report):
    """One run of one TrainingJob; `spec` has the operator's storage defaults filled in."""

    name: str
    namespace: str
    uid: str
    run_index: int
    generation: int
    spec: TrainingJobSpec
