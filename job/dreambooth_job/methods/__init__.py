"""Training methods by their name in the spec; each says which numbers may move, and knows no family."""

from dreambooth_job.contracts import Method
from dreambooth_job.methods.full import Full
from dreambooth_job.methods.lora import Lora

METHODS: dict[str, Method] = {"full": Full(), "lora": Lora()}
