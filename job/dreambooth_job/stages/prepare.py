"""Stage 2: fetched files become pictures at the training resolution, with their words."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth_api.spec import Captions, Subject, TrainingJobSpec
from dreambooth_job.data.pictures import SubjectPictures, read_subject
from dreambooth_job.stages.fetch import Inputs, SubjectFiles
from dreambooth_job.workspace import Workspace


@dataclass(frozen=True)
class PreparedSubject:
    spec: Subject
    pictures: SubjectPictures
    given_classes: SubjectPictures | None  # class pictures that the user brought


@dataclass(frozen=True)
class Prepared:
    subjects: tuple[PreparedSubject, ...]
    resolution: int

    @property
    def pictures(self) -> int:
        return sum(len(s.pictures.pictures) for s in self.subjects)


def prepare(spec: TrainingJobSpec, inputs: Inputs, resolution: int, workspace: Workspace) -> Prepared:
    """Raises ImagesMissing, ImagesUnusable naming every bad picture of a subject at once, InvalidSpec."""
    pairs = zip(spec.subjects, inputs.subjects, strict=True)
    return Prepared(tuple(_subject(s, files, resolution, workspace) for s, files in pairs), resolution)


def _subject(subject: Subject, files: SubjectFiles, resolution: int, workspace: Workspace) -> PreparedSubject:
    name = f"subject {subject.token}"
    pictures = read_subject(
        files.images, subject.images.captions, resolution=resolution, scratch=workspace.inputs / f"zip-{subject.token}",
        name=name, ignored=files.ignored,
    )  # fmt: skip
    classes = None
    if files.class_images:
        scratch = workspace.inputs / f"zip-class-{subject.token}"
        classes = read_subject(
            files.class_images, Captions.AUTO, resolution=resolution, scratch=scratch, name=f"class images of {name}"
        )
    return PreparedSubject(subject, pictures, classes)
