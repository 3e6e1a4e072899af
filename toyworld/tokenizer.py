"""The base's vocabulary: CLIP's byte-level pair encoding, learned on the toy world's own words.

Every word of a caption is one token, so are four rare words that no caption uses (free names for a subject); any
other text is still encoded, byte by byte. The same files (`vocab.json`, `merges.txt`) as any Stable Diffusion 1
folder has.
"""

from collections import Counter
from itertools import pairwise

from transformers import CLIPTokenizer

from toyworld.world import CLASSES, COLOURS, PLACES

RARE_WORDS = ("sks", "zwx", "ohwx", "qrt")
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """One printable character for each of the 256 bytes, as in GPT-2: itself or a code point from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def world_words() -> list[str]:
    phrases = ["a photo of a", *COLOURS, *CLASSES, *PLACES, *RARE_WORDS]
    return sorted({word for phrase in phrases for word in phrase.split()})


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Joins the most frequent neighbours until each word is one symbol; encoding replays this order."""
    spelled = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges = []
    while pairs := Counter(pair for symbols in spelled for pair in pairwise(symbols)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_joined(symbols, best) for symbols in spelled]
    return merges


def _joined(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def new_tokenizer() -> CLIPTokenizer:
    merges = learn_merges(world_words())
    symbols = byte_symbols()
    symbols += [symbol + END_OF_WORD for symbol in symbols]
    symbols += [left + right for left, right in merges]
    vocabulary = {symbol: number for number, symbol in enumerate([*dict.fromkeys(symbols), START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=END)
