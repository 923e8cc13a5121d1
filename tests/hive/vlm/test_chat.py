"""Conversations to ids, labels and rows: by hand, and against transformers' own processor and loss."""

import pickle

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from hive.data.shared_texts import SharedTexts
from hive.data.text import BadText, load_transformers_tokenizer
from hive.errors import UserError
from hive.vlm.chat import DATE, as_processor_template, load_chat_tokenizer
from hive.vlm.conversations import dumps, turns
from hive.vlm.emoji import open_emoji
from tests.support.tiny_chats import PATCHES, chat, picture

TALK = [("user", "<image>\nWhat?"), ("assistant", "a cat"), ("user", "Sure?"), ("assistant", "yes")]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer_with(tmp_path, template):
    loaded = load_transformers_tokenizer()
    loaded.chat_template = template
    loaded.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    loaded.save_pretrained(tmp_path)
    return str(tmp_path)


def decoded(tokenizer, ids):
    return tokenizer.backend.decode(ids, skip_special_tokens=False)


def test_loss_on_the_answers_and_their_end_marks_only(tmp_path):
    for tokenizer, whole, supervised in (
        (chat(), "<bos><image>\nWhat?\na cat\n<eos>Sure?\nyes\n<eos>", "a cat\n<eos>yes\n<eos>"),
        (
            load_chat_tokenizer(tokenizer_with(tmp_path, CHATML), PATCHES, 16)[0],
            "<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\na cat<|im_end|>\n"
            "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>",
            "a cat<|im_end|>yes<|im_end|>",
        ),
    ):
        text = tokenizer.encode(dumps(TALK), 200)
        assert decoded(tokenizer, text.ids) == whole
        assert (
            decoded(tokenizer, [token for token, own in zip(text.ids, text.answers, strict=True) if own]) == supervised
        )


def test_cut_texts():
    tokenizer = chat()
    whole = tokenizer.encode(dumps(TALK), 200)
    first_end = whole.answers.index(False, whole.answers.index(True))
    cut = tokenizer.encode(dumps(TALK), first_end + 1)
    assert cut.ids == whole.ids[:first_end]  # ends with the last answer that fits
    with pytest.raises(BadText, match="no answer begins within 3 tokens"):
        tokenizer.encode(dumps(TALK), 3)
    late = [("user", "Hello?"), ("assistant", "Hi."), *TALK]
    with pytest.raises(BadText, match="the image stands behind"):
        tokenizer.encode(dumps(late), len(tokenizer.encode(dumps(late[:2]), 99).ids))


def test_an_image_mark_is_text_without_an_image(tmp_path):
    """Its ids are those of the tokenizer before the mark became a token."""
    tokenizer, _ = load_chat_tokenizer(tokenizer_with(tmp_path, CHATML), PATCHES, 16)
    plain = load_transformers_tokenizer(str(tmp_path))
    talk = [("user", "Is <image> an HTML tag?"), ("assistant", "No, <image> is not.")]
    text = pickle.loads(pickle.dumps(tokenizer)).encode(dumps(talk), 200)
    whole = tokenizer.render(talk, ask=False).rstrip()
    assert text.ids == plain(whole, add_special_tokens=False).input_ids
    assert tokenizer.image_id not in text.ids
    answer = [token for token, own in zip(text.ids, text.answers, strict=True) if own]
    assert decoded(tokenizer, answer) == "No, <image> is not.<|im_end|>"
    assert tokenizer.image_id in tokenizer.encode(dumps(TALK), 200).ids


def test_rows_of_a_packed_batch():
    """Every row of every sample, rebuilt one by one from the batch."""
    tokenizer = pickle.loads(pickle.dumps(chat()))
    talks = [TALK, [("user", "1 + 1?"), ("assistant", "2")], [("user", "<image>\nAnd?"), ("assistant", "dog")]]
    texts = [tokenizer.encode(dumps(talk), 200) for talk in talks]
    batch = tokenizer.pack([(picture(0), texts[0]), (None, texts[1]), (picture(2), texts[2])], [(7, "x", "y")])
    rows = torch.full((int(batch.cu_seqlens[-1]),), -1)
    rows[batch.text_rows], rows[batch.image_rows] = batch.tokens, tokenizer.image_id
    assert (rows >= 0).all()
    wanted_targets = []
    for text, start, end in zip(texts, batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        ids = tokenizer.expand(text.ids)
        assert rows[start:end].tolist() == ids[:-1]
        assert batch.positions[start:end].tolist() == list(range(len(ids) - 1))
        wanted_targets += [token for token, own in zip(text.ids, text.answers, strict=True) if own]
    assert batch.targets.tolist() == wanted_targets
    following = torch.cat([rows[1:], torch.tensor([-1])])
    inner = ~torch.isin(
        batch.predicting_rows + 1, batch.cu_seqlens
    )  # the last row of a sample predicts what was cut off
    assert torch.equal(following[batch.predicting_rows][inner], batch.targets[inner])
    assert (batch.samples, batch.images, batch.token_count) == (3, 2, len(wanted_targets))
    assert batch.bad == ((7, "x", "y"),)
    assert torch.equal(batch.pixels, torch.stack([picture(0), picture(2)]))


def test_a_batch_without_images_or_samples():
    tokenizer = chat()
    text = tokenizer.encode(dumps([("user", "1 + 1?"), ("assistant", "2")]), 99)
    batch = tokenizer.pack([(None, text)], ())
    assert batch.pixels.shape == (1, 3, 16, 16)  # blank, and read by no row
    assert (batch.samples, batch.images) == (1, 0)
    nothing = tokenizer.pack([], ())
    assert (nothing.samples, nothing.images, nothing.token_count) == (0, 0, 0)


def test_llama_3_date_does_not_move(tmp_path):
    """Llama 3's template asks for today's date unless one is given."""
    dated = "{% if not date_string is defined %}{{ strftime_now('%d') }}{% endif %}{{ date_string }}|" + CHATML
    tokenizer, _ = load_chat_tokenizer(tokenizer_with(tmp_path, dated), PATCHES, 16)
    assert tokenizer.render([("user", "x")], ask=True).startswith(f"{DATE}|<|im_start|>")


def test_template_takes_lists_of_parts():
    loaded = load_transformers_tokenizer()
    template = as_processor_template(CHATML)
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    by_parts = loaded.apply_chat_template([{"role": "user", "content": parts}], chat_template=template, tokenize=False)
    by_text = [{"role": "user", "content": "<image>\nWhat?"}]
    assert by_parts == loaded.apply_chat_template(by_text, chat_template=CHATML, tokenize=False)


@pytest.mark.parametrize(
    ("template", "said_"),
    [
        (None, "has no chat template"),
        ("{{ messages[0].content }}", "doesn't write turns one after another"),
        ("{% for message in messages %}{{ message.content }}\n{% endfor %}", "puts no mark behind an answer"),
        ("{{ raise_exception('no') }}", "fails"),
    ],
)
def test_templates_that_will_not_do(tmp_path, template, said_):
    with pytest.raises(UserError, match=said_):
        load_chat_tokenizer(tokenizer_with(tmp_path, template), PATCHES, 16)


def test_ids_are_those_of_transformers(tmp_path):
    """The rendered text, tokenized by transformers' own object with the image's token added."""
    tokenizer, loaded = load_chat_tokenizer(tokenizer_with(tmp_path, CHATML), PATCHES, 16)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    text = loaded.apply_chat_template(
        [{"role": role, "content": value} for role, value in TALK], tokenize=False, add_generation_prompt=False
    )
    assert isinstance(text, str)
    assert tokenizer.encode(dumps(TALK), 200).ids == loaded(text.rstrip(), add_special_tokens=False).input_ids


def test_emoji_questions():
    train = open_emoji("train")
    assert len(train) == 2388 + 597
    assert sum(not train.has_image(index) for index in range(len(train))) == 597
    answers = [turns(text)[place][1] for text in list(train.captions)[:2388] for place in (1, 3, 5)]
    assert 0.45 < answers.count("yes") / (answers.count("yes") + answers.count("no")) < 0.55
    assert train.fingerprint == open_emoji("train").fingerprint
    assert open_emoji("unseen_style").fingerprint != train.fingerprint


def test_shared_texts():
    texts = ["", "añb", "x" * 1000, "日本"]
    shared = SharedTexts(texts)
    assert list(shared) == texts
    assert list(SharedTexts([])) == []
