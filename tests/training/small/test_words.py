import numpy as np
import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.small.words import Vocabulary, every_caption, mirrored


def test_rows_are_t5s_tokens_as_comfyui_pads_and_cuts_them(tokenizer):
    from transformers import PreTrainedTokenizerFast

    texts = ["a red shirt", "a blue shirt and a hat"]
    vocabulary = Vocabulary.of_captions(tokenizer, texts)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    for text in texts:
        rows = vocabulary.rows(text, 12)
        tokens = [vocabulary.tokens[row] for row in rows]
        expected = theirs(text).input_ids
        assert tokens == expected + [0] * (12 - len(expected))
    cut = vocabulary.rows(texts[1], 4)
    assert np.array_equal(cut[:3], vocabulary.rows(texts[1], 12)[:3]) and cut[3] == 1


def test_a_word_that_was_never_seen_is_unknown(tokenizer):
    vocabulary = Vocabulary.of_captions(tokenizer, ["a red shirt"])
    assert 2 in vocabulary.rows("a zebra", 8)
    assert vocabulary.rows("", 4).tolist() == [1, 0, 0, 0]


def test_captions_fit_the_length_and_are_known(tokenizer):
    vocabulary = Vocabulary.of_captions(tokenizer, every_caption())
    assert len(vocabulary.tokens) < 120
    for caption in every_caption(seed=1)[:200]:
        rows = vocabulary.rows(caption, 64)
        assert 2 not in rows and rows[-1] == 0


def test_mirrored_swaps_left_and_right():
    assert mirrored("turns the head to the left, then to the right") == "turns the head to the right, then to the left"


def test_another_file_is_no_tokenizer(tmp_path):
    with pytest.raises(ConsisIDError, match="is no tokenizer.*--tokenizer"):
        Vocabulary(tmp_path / "none.json")
