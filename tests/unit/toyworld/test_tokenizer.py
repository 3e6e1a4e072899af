import pytest
from transformers import CLIPTokenizer

from toyworld.tokenizer import new_tokenizer, world_words


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return new_tokenizer()


def test_each_word_of_the_world_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in world_words():
        start, token, end = tokenizer(word).input_ids
        assert (start, end) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.decode([token]).strip() == word


@pytest.mark.parametrize("text", ["a photo of a zebra", "größe", "漢字", "sks!"])
def test_any_other_text_is_encoded_by_bytes(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.unk_token_id not in ids[1:-1]
