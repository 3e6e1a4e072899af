"""CLIP's tokenizer from plain data files: the vocabulary that OpenAI published, or a diffusers folder's own.

Nothing but the two tables is read, so a tokenizer folder can bring no code and no surprising settings.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

from transformers import CLIPTokenizer

from dreambooth_job.errors import BaseModelUnreadable

CLIP_VOCABULARY_SIZE = 49_408
_MERGES_IN_FILE = CLIP_VOCABULARY_SIZE - 512 - 2  # 256 bytes, the same at a word's end, start and end of text
_MAX_FILE_BYTES = 16 * 2**20
MAX_TOKENS = 77


def published() -> CLIPTokenizer:
    """CLIP ViT-L/14's own tokenizer, from the byte-pair file that the open_clip package carries (MIT licence)."""
    package = importlib.util.find_spec("open_clip")
    path = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : _MERGES_IN_FILE + 1]
    merges = [tuple(line.split()) for line in lines]
    symbols = byte_symbols()
    words = [*symbols, *[f"{s}</w>" for s in symbols], *["".join(m) for m in merges]]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return build({word: number for number, word in enumerate(words)}, merges)


def from_folder(folder: Path) -> CLIPTokenizer:
    """The tokenizer of `vocab.json` and `merges.txt`, or of a `tokenizer.json` where only that is there."""
    try:
        if (folder / "vocab.json").exists():
            lines = _read(folder / "merges.txt").split("\n")
            merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
            return build(json.loads(_read(folder / "vocab.json")), merges)
        model = json.loads(_read(folder / "tokenizer.json"))["model"]
        return build(model["vocab"], [tuple(m.split() if isinstance(m, str) else m) for m in model["merges"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseModelUnreadable(
            f"the base model's tokenizer cannot be read ({error}); its folder needs vocab.json and merges.txt, "
            "or tokenizer.json"
        ) from error


def build(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """Stable Diffusion 1 pads with the end-of-text token and reads 77 tokens, start and end included."""
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS, pad_token="<|endoftext|>")


def _read(path: Path) -> str:
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_FILE_BYTES} bytes")
    return path.read_text(encoding="utf-8")


def byte_symbols() -> list[str]:
    """One printable character for each byte, in CLIP's order (openai/CLIP, `simple_tokenizer.bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
