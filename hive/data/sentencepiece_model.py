"""A SentencePiece model (Kudo and Richardson 2018) as a fast tokenizer that gives the same ids."""

import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

UNIGRAM, BPE = 1, 2  # of TrainerSpec.ModelType in sentencepiece_model.proto
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # of SentencePiece.Type
IN_TEXT = (NORMAL, USER_DEFINED)
"""The types of pieces that stand for a text that spells them."""
SPACE = "▁"


def convert_sentencepiece(path: Path, bos: int | None) -> Tokenizer:
    """The model in a tokenizer.model; an encoding with special tokens begins with the id `bos`.

    Raises ValueError where the model is neither a unigram nor a BPE model, and protobuf's errors about a broken file.
    """
    from sentencepiece import sentencepiece_model_pb2  # it needs protobuf

    messages: Any = sentencepiece_model_pb2  # protobuf makes its classes at run time
    model = messages.ModelProto()
    model.ParseFromString(path.read_bytes())
    kinds = {UNIGRAM: _unigram, BPE: _bpe}
    if model.trainer_spec.model_type not in kinds or model.trainer_spec.treat_whitespace_as_suffix:
        raise ValueError("it is no unigram or BPE model with spaces in front of words")
    made = Tokenizer(kinds[model.trainer_spec.model_type](model))
    made.add_tokens(
        [AddedToken(piece.piece, normalized=False, special=True) for piece in model.pieces if piece.type == CONTROL]
    )
    made.normalizer = _normalizer(model.normalizer_spec)
    if boundaries := _boundaries(model):
        made.pre_tokenizer = pre_tokenizers.Split(Regex(boundaries), "isolated")
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(content=" ", left=1)] if model.normalizer_spec.add_dummy_prefix else [])
    )
    if bos is not None:
        name = model.pieces[bos].piece
        made.post_processor = processors.TemplateProcessing(
            single=f"{name} $A", pair=f"{name} $A {name}:1 $B:1", special_tokens=[(name, bos)]
        )
    return made


def _unigram(model: Any) -> models.Unigram:
    spec = model.trainer_spec
    return models.Unigram([(piece.piece, piece.score) for piece in model.pieces], spec.unk_id, spec.byte_fallback)


def _symbols(model: Any) -> list[str]:
    """What the user of the trainer defined as pieces, longest first; they have no merges."""
    return sorted((piece.piece for piece in model.pieces if piece.type == USER_DEFINED), key=len, reverse=True)


def _boundaries(model: Any) -> str:
    """A pattern of what is encoded by itself: symbols, which are taken as a whole wherever they are in a text.

    Where a whole word of the vocabulary is taken without merges, also the first letter of a text that spells a piece
    such as </s>, which then can't be found.
    """
    patterns = [re.escape(symbol) for symbol in _symbols(model)]
    if patterns or model.trainer_spec.model_type == UNIGRAM:
        spelled = [piece.piece for piece in model.pieces if piece.type not in IN_TEXT and len(piece.piece) > 1]
        patterns += [f"{re.escape(piece[0])}(?={re.escape(piece[1:])})" for piece in spelled]
    return "|".join(patterns)


def _bpe(model: Any) -> models.BPE:
    """Every way to split a piece into two others is a merge; the piece with the highest score is made first."""
    numbers = {piece.piece: number for number, piece in enumerate(model.pieces)}
    merges = []
    mergeable = {piece.piece: piece.score for piece in model.pieces if piece.type in IN_TEXT}
    for piece, score in mergeable.items():
        for place in range(1, len(piece)):
            left, right = piece[:place], piece[place:]
            if left in mergeable and right in mergeable:
                merges.append((-score, numbers[left], numbers[right], (left, right)))
    unknown = model.pieces[model.trainer_spec.unk_id].piece
    return models.BPE(
        numbers,
        [pair for *_, pair in sorted(merges)],
        unk_token=unknown,
        fuse_unk=True,
        ignore_merges=bool(_symbols(model)),
        byte_fallback=model.trainer_spec.byte_fallback,
    )


def _normalizer(spec: Any) -> normalizers.Normalizer:
    space = SPACE if spec.escape_whitespaces else " "
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    steps.append(normalizers.Replace(" ", space))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{space}+\z"), ""))
    return normalizers.Sequence(steps)
