"""The TrainingJob's spec: the only place where a user's field is declared, explained, bounded and defaulted.

The CRD schema (`crd.py`), the job's own check and the docs come from this tree. `null` or a field left out means
"resolved by the job from model, pictures and hardware"; the resolved value and its reason end in the run's manifest.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from dreambooth_api.base import Record
from dreambooth_api.methods import Lora, Method

Uri = Annotated[
    str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$", min_length=6, max_length=1024)
]
Prefix = Annotated[
    str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.*[^/]/?$", min_length=8, max_length=1024)
]
Quantity = Annotated[
    str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", min_length=1, max_length=20)
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)]
Label = Annotated[str, StringConstraints(max_length=317)]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Rate = Annotated[float, Field(gt=0, le=1)]


def cel(rule: str, message: str) -> dict[str, str]:
    """One CEL rule of the CRD: the API server refuses what breaks it, with this message."""
    return {"rule": rule, "message": message}


def checks(*rules: dict[str, str]) -> dict[str, Any]:
    return {"x-kubernetes-validations": list(rules)}


class BaseModelSource(Record):
    """The model to start from. Its family is detected from its files."""

    uri: Uri
    """A diffusers folder (ends in /), one .safetensors file, or a .ckpt file, e.g. s3://models/sd15.safetensors."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)] | None = None
    """SHA-256 of the single file. Set it to refuse any other bytes under the same name."""
    config_uri: Uri | None = None
    """A diffusers folder whose configuration and tokenizer describe a single file of unusual shape.
    Leave it out for ordinary Stable Diffusion 1 files."""
    vae: Uri | None = None
    """A VAE to use instead of the base's own: a diffusers folder or one .safetensors file."""
    allow_pickle: bool = False
    """Whether a .ckpt may be read. It is a pickle, which can carry code; only the restricted reader ever opens it."""


class Captions(StrEnum):
    NONE = "none"
    FILENAME = "filename"
    SIDECAR = "sidecar"
    AUTO = "auto"


class Images(Record):
    """Pictures of one subject: 5 to 20 are usual."""

    uri: Uri
    """A prefix in a bucket (any layout of folders) or one .zip file."""
    captions: Captions = Captions.AUTO
    """Where each picture's caption comes from: none (the instance prompt), filename, sidecar (same-stem .txt), or
    auto (sidecar when there is any, else none)."""


class ClassImages(Record):
    """Pictures of the class, for prior preservation: they keep the class from turning into the subject."""

    model_config = {
        "json_schema_extra": checks(cel("has(self.generate) != has(self.uri)", "set exactly one of generate and uri"))
    }

    generate: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Draw this many with the base model before training. 10 per picture, up to 200, is usual."""
    uri: Uri | None = None
    """A prefix or .zip of pictures that you bring."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.generate is None) == (self.uri is None):
            raise ValueError("set exactly one of generate and uri")
        return self


class Subject(Record):
    """One thing to learn, the word that will call it, and the kind of thing it is."""

    model_config = {
        "json_schema_extra": checks(
            cel("!has(self.prompt) || self.prompt.contains(self.token)", "prompt must contain the token")
        )
    }

    token: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", min_length=1, max_length=64)]
    """The word that calls the subject in a prompt. A rare one, e.g. sks, brings no meaning of its own."""
    class_name: Annotated[
        str, StringConstraints(pattern=r"^[\p{L}\p{N}][\p{L}\p{N} '_-]*$", min_length=1, max_length=64)
    ]
    """What kind of thing it is, e.g. dog. The right word helps more than any other setting."""
    images: Images
    """Where its pictures are."""
    prompt: Prompt | None = None
    """What every picture without a caption shows. Left out: "a photo of a <token> <className>"."""
    class_images: ClassImages | None = None
    """Pictures of the class, for prior preservation. Left out: none are used."""

    @model_validator(mode="after")
    def _prompt_has_token(self) -> Self:
        if self.prompt is not None and self.token not in self.prompt:
            raise ValueError("prompt must contain the token")
        return self


class OverwritePolicy(StrEnum):
    NEVER = "Never"
    REPLACE = "Replace"


class Output(Record):
    """Where the finished model goes."""

    uri: Prefix
    """A prefix of its own for this subject, e.g. s3://results/rex/. The manifest there is written last."""
    overwrite_policy: OverwritePolicy = OverwritePolicy.NEVER
    """What to do when another job's result is already there: Never refuses before training, Replace takes its place
    only once the new result is complete."""


class Schedule(StrEnum):
    CONSTANT = "constant"
    COSINE = "cosine"


class Precision(StrEnum):
    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class Training(Record):
    """How to train. Every field may be left out."""

    steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Optimizer steps. Left out: 100 per picture, at least 400 and at most 4000."""
    learning_rate: Rate | None = None
    """Peak learning rate of the denoiser. Left out: the method's usual rate for the family."""
    text_learning_rate: Rate | None = None
    """Peak learning rate of the text encoder, when the method trains it. Left out: half of learningRate."""
    schedule: Schedule = Schedule.CONSTANT
    """How the rate goes on after the warm-up: constant, or cosine down to zero."""
    warmup_steps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Steps over which the rate rises from zero."""
    resolution: Annotated[int, Field(ge=64, le=2048, multiple_of=8)] | None = None
    """Side of the square training pictures in pixels. Left out: the base model's own."""
    batch_size: Annotated[int, Field(ge=1, le=64)] = 1
    """Pictures of the subjects per forward pass; as many class pictures come on top when there are any."""
    gradient_accumulation: Annotated[int, Field(ge=1, le=64)] = 1
    """Forward passes per optimizer step: a larger batch at the same memory."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Gradients with a larger norm are scaled down to it."""
    prior_weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Weight of the class pictures' loss against the subject's."""
    precision: Precision = Precision.AUTO
    """Arithmetic of the forward and backward pass. auto: bf16 on a GPU that has it, else fp16; fp32 on a CPU."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Same seed, same data and same machine give the same model."""


class Samples(Record):
    """Pictures drawn while training, so that you see what happens."""

    every_steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Draw at step 0, every so many steps, and at the end. Left out: a quarter of the steps."""
    prompts: Annotated[tuple[Prompt, ...], Field(max_length=16)] = ()
    """Prompts of your own, drawn before each subject's prompt with its token and without. The first picture of the
    last step becomes the model's card in web UIs."""
    guidance: Annotated[float, Field(ge=1, le=30)] = 7.5
    """How strongly pictures follow their prompt (classifier-free guidance), class pictures included. 7.5 is usual."""


class Checkpoints(Record):
    """Resume points in the bucket. An interrupted job goes on from the newest; all go once the result stands."""

    every_steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Save every so many steps. Left out, with everySeconds left out too: every 300 seconds."""
    every_seconds: Annotated[int, Field(ge=10, le=86_400)] | None = None
    """Save every so many seconds."""
    keep_last: Annotated[int, Field(ge=1, le=10)] = 2
    """How many to keep."""


class SecretRef(Record):
    """A Secret of the same namespace."""

    name: Name
    """Its name."""


class Storage(Record):
    """The S3-compatible store. Every field left out takes the operator's default."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]+$", max_length=512)] | None = None
    """URL of the store. Left out: the operator's default, else Amazon S3."""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", min_length=1, max_length=64)] | None = None
    """Region of the buckets."""
    credentials_secret_ref: SecretRef | None = None
    """A Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN). Left out: the pod's
    ServiceAccount identity. The operator never reads it."""


class RunPolicy(Record):
    """When to wait, to try again and to give up. The only section that may change while the job lives."""

    suspend: bool = False
    """true saves a checkpoint and frees the GPU; false goes on from that checkpoint."""
    backoff_limit: Annotated[int, Field(ge=0, le=20)] = 3
    """Failed attempts before the job fails."""
    max_preemptions: Annotated[int, Field(ge=0, le=1000)] = 10
    """Interrupted attempts (drain, preemption, deleted pod) before the job fails; they do not count as failed."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Running time, summed over all attempts, after which the job fails."""
    startup_deadline_seconds: Annotated[int, Field(ge=1, le=604_800)] = 1800
    """Time for a pod to run (node found, image pulled) before the job fails."""
    progress_timeout_seconds: Annotated[int, Field(ge=30, le=86_400)] = 1800
    """Time without any progress after which the job fails as Stalled."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Delete the TrainingJob this long after it finished. The result in the bucket stays."""


class Gpu(Record):
    """What to ask of the device plugin."""

    resource: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=253)] = (
        "nvidia.com/gpu"
    )
    """Extended resource name, e.g. nvidia.com/gpu, amd.com/gpu or a MIG slice."""
    count: Annotated[int, Field(ge=0, le=1)] = 1
    """1, or 0 to train on the CPU, which is for trying out."""


class Resources(Record):
    """CPU and memory of the pod: requested and, for memory, also the limit."""

    cpu: Quantity = "2"
    """Requested cores."""
    memory: Quantity = "16Gi"
    """Requested memory and its limit."""


class ScratchMedium(StrEnum):
    DISK = "Disk"
    MEMORY = "Memory"


class Scratch(Record):
    """The one folder for working data; it is emptied in every ending and goes with the pod."""

    size_limit: Quantity = "40Gi"
    """Room for the pictures, the base model and one checkpoint."""
    medium: ScratchMedium = ScratchMedium.DISK
    """Memory keeps working data off the node's disk and counts against resources.memory."""


class Toleration(Record):
    """As in a pod."""

    key: Label | None = None
    operator: Annotated[str, StringConstraints(pattern=r"^(Exists|Equal)$", max_length=6)] = "Equal"
    value: Label | None = None
    effect: (
        Annotated[str, StringConstraints(pattern=r"^(NoSchedule|PreferNoSchedule|NoExecute)$", max_length=16)] | None
    ) = None
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None


class Runtime(Record):
    """The pod that trains."""

    image: Annotated[str, StringConstraints(pattern=r"^\S+$", min_length=1, max_length=512)] | None = None
    """The job's image. Left out: the operator's default."""
    image_pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=8)] = ()
    """Secrets of the same namespace for a private registry."""
    gpu: Gpu = Gpu()
    """The accelerator."""
    resources: Resources = Resources()
    """CPU and memory."""
    scratch: Scratch = Scratch()
    """The volume for working data."""
    service_account_name: Name | None = None
    """ServiceAccount whose cloud identity may reach the buckets. It needs no Kubernetes rights."""
    node_selector: Annotated[dict[str, Label], Field(max_length=16)] = {}
    """Labels that the node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the pod accepts, besides the GPU resource's own."""
    priority_class_name: Name | None = None
    """The pod's PriorityClass."""
    runtime_class_name: Name | None = None
    """The pod's RuntimeClass."""


IMMUTABLE_SECTIONS = (
    "baseModel", "subjects", "output", "method", "training", "samples", "checkpoints", "storage", "runtime",
)  # fmt: skip


class TrainingJobSpec(Record):
    """Teach a base model one or more subjects from their pictures, and publish the result."""

    model_config = {
        "json_schema_extra": checks(
            *(
                cel(f"self.{name} == oldSelf.{name}", f"{name} cannot be changed; apply a TrainingJob of another name")
                for name in IMMUTABLE_SECTIONS
            ),
            cel(
                "self.subjects.all(s, !self.output.uri.startsWith(s.images.uri))",
                "output.uri lies inside a subject's images.uri: results would become pictures",
            ),
            cel(
                "!has(self.samples.everySteps) || !has(self.training.steps) "
                "|| self.samples.everySteps <= self.training.steps",
                "samples.everySteps is larger than training.steps",
            ),
        )
    }

    base_model: BaseModelSource
    """The model to start from."""
    subjects: Annotated[
        tuple[Subject, ...],
        Field(
            min_length=1,
            max_length=10,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["token"]},
        ),
    ]
    """What to teach: one entry per subject, each with a token of its own."""
    output: Output
    """Where the result goes."""
    method: Method = Method(lora=Lora())
    """How the model changes: exactly one of full and lora."""
    training: Training = Training()
    """Steps, rates and the like."""
    samples: Samples = Samples()
    """Pictures drawn while training."""
    checkpoints: Checkpoints = Checkpoints()
    """Resume points."""
    storage: Storage = Storage()
    """The store."""
    run_policy: RunPolicy = RunPolicy()
    """Suspension, retries, deadlines, lifetime."""
    runtime: Runtime = Runtime()
    """The pod."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        tokens = [s.token for s in self.subjects]
        if len(set(tokens)) != len(tokens):
            raise ValueError("subjects: every token must be used once")
        if any(self.output.uri.startswith(s.images.uri) for s in self.subjects):
            raise ValueError("output.uri lies inside a subject's images.uri: results would become pictures")
        if self.samples.every_steps and self.training.steps and self.samples.every_steps > self.training.steps:
            raise ValueError("samples.everySteps is larger than training.steps")
        return self
