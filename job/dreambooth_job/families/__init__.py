"""Model families by name; each knows how to load, encode, predict and name things, and no training method."""

from dreambooth_job.contracts import Family
from dreambooth_job.families.sd1 import SD1

FAMILIES: dict[str, Family] = {"sd1": SD1()}
