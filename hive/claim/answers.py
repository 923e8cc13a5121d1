"""A model that answers templated questions from a frozen tower's tokens; as a baseline, from the questions alone."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hive.claim.questions import NOT_ASKED, Questions
from hive.data.order import indices
from hive.probe.fit import learning_rates, total_steps
from hive.probe.protocol import Protocol

HIDDEN = 256  # width of the layer before the classifiers

TokenReader = Callable[[np.ndarray], Tensor]
"""Returns the normalised tokens [B, N, D], fp32, of the drawings in rows [B] of a split."""


@dataclass(frozen=True)
class TokenSource:
    """The drawings' tokens, which the questions are answered from."""

    tokens: Mapping[str, TokenReader]
    """By split."""
    readable: Mapping[str, np.ndarray]
    """By split: the rows whose drawing can be read, int64."""
    width: int
    """D, the tokens' width."""
    heads: int
    """Attention heads."""
    device: torch.device


def blind_source(rows: Mapping[str, np.ndarray], width: int, heads: int, device: torch.device) -> TokenSource:
    """Returns a source without pictures: each drawing has one token of zeros.

    One is enough, because attention's mean of equal tokens does not depend on their number.
    """

    def zeros(rows: np.ndarray) -> Tensor:
        return torch.zeros(len(rows), 1, width, device=device)

    return TokenSource(dict.fromkeys(rows, zeros), rows, width, heads, device)


class Answerer(nn.Module):
    """Answers questions by attention over a picture's tokens: their words make the queries and gate the result.

    B pictures, P questions about each, N tokens of width D, H attention heads. The projections of keys and values are
    applied to the query and to the weighted mean of the tokens, as in `AttentionHeads`. A word that no training
    question has is embedded as zeros.
    """

    def __init__(self, questions: Questions, width: int, heads: int) -> None:
        """Fresh weights, from torch's generator."""
        super().__init__()
        asked = questions.tokens[np.unique(questions.asked["train"][:, questions.trained])]
        known = np.unique(asked[asked >= 0])
        words = np.where(np.isin(questions.tokens, known), 1 + np.searchsorted(known, questions.tokens), 0)
        self.words: Tensor
        self.register_buffer("words", torch.from_numpy(words))
        self.kinds, self.heads = questions.kinds, heads
        self.embedding = nn.Embedding(1 + len(known), width, padding_idx=0)
        nn.init.normal_(self.embedding.weight[1:], std=0.02)  # rare words are learned in few steps
        self.norm = nn.LayerNorm(width)
        self.query, self.value, self.gate = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # softmax would ignore it
        self.mlp = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU())
        self.classifiers = nn.ModuleDict({kind: nn.Linear(HIDDEN, len(a)) for kind, a in questions.answers.items()})

    def forward(self, tokens: Tensor, asked: Tensor) -> list[Tensor]:
        """Returns logits [B, A] for each of P places, over the A answers to its kind.

        `tokens`: [B, N, D]. `asked`: numbers of the questions, int64 [B, P].
        """
        (B, P), H = asked.shape, self.heads
        unique, inverse = asked.unique(return_inverse=True)
        text = self.norm(self.embedding(self.words[unique]).sum(1))
        query = self.query(text).unflatten(1, (H, -1)) / math.sqrt(tokens.shape[2] // H)
        projected = torch.einsum("qhk,hkd->qhd", query, self.key.weight.unflatten(0, (H, -1)))
        scores = projected[inverse].flatten(1, 2) @ tokens.transpose(1, 2)  # [B, P H, N]
        mean = (scores.softmax(2) @ tokens).view(B, P, H, -1)
        pooled = torch.einsum("bphd,hkd->bphk", mean, self.value.weight.unflatten(0, (H, -1))).flatten(2)
        hidden = self.mlp((pooled + self.value.bias) * self.gate(text)[inverse])
        return [self.classifiers[kind](hidden[:, place]) for place, kind in enumerate(self.kinds)]


def answer(questions: Questions, source: TokenSource, protocol: Protocol, seed: int) -> dict[str, Any]:
    """Trains answerers; returns the "accuracy" by kind and split, "learning_rate" and "validation" accuracies.

    The learning rate is the one with the highest mean accuracy over the kinds on the validation concepts. Drawings that
    can't be read are not trained on, and the answers to the questions about them count as wrong.
    """
    readable = source.readable["train"]
    trained = questions.trained[readable]
    answerers = _train(questions, source, readable[trained], protocol, seed)
    asked = questions.asked_of("train", ~questions.trained)
    points = []
    for answerer in answerers:
        right = _count_right(answerer, questions, source, "train", readable[~trained], protocol.batch_size)
        shares = [right[kind] / count for kind, count in asked.items() if count]
        points.append(sum(shares) / max(1, len(shares)))
    best = int(np.argmax(points))
    accuracy: dict[str, dict[str, float]] = {kind: {} for kind in questions.answers}
    for split in questions.heldout:
        right = _count_right(answerers[best], questions, source, split, source.readable[split], protocol.batch_size)
        for kind, count in questions.asked_of(split).items():
            if count:
                accuracy[kind][split] = right[kind] / count
    return {"accuracy": accuracy, "learning_rate": protocol.grid[best][0], "validation": points}


def _train(
    questions: Questions, source: TokenSource, chosen: np.ndarray, protocol: Protocol, seed: int
) -> list[Answerer]:
    """Returns a trained answerer for each grid point; all start from the same weights and see the same batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Answerer(questions, source.width, source.heads).to(source.device)
    answerers = [copy.deepcopy(fresh) for _ in protocol.grid]
    optimizers = [
        torch.optim.AdamW(answerer.parameters(), lr=rate, weight_decay=decay)
        for answerer, (rate, decay) in zip(answerers, protocol.grid, strict=True)
    ]
    total, batch = total_steps(protocol, len(chosen)), min(protocol.batch_size, len(chosen))
    all_asked = questions.asked["train"]
    for step in range(total):
        passes, places = np.array(indices(len(chosen), seed, step * batch, batch)).T
        rows = chosen[places]
        asked = torch.from_numpy(all_asked[passes % len(all_asked), rows]).to(source.device)
        right = torch.from_numpy(questions.right["train"][rows]).to(source.device)
        tokens = source.tokens["train"](rows)
        rates = learning_rates(protocol, step, total).tolist()
        for answerer, optimizer, rate in zip(answerers, optimizers, rates, strict=True):
            logits = answerer(tokens, asked)
            losses = [
                F.cross_entropy(place_logits, target, ignore_index=NOT_ASKED, reduction="sum")
                for place_logits, target in zip(logits, right.T, strict=True)
            ]
            optimizer.zero_grad()
            (torch.stack(losses).sum() / batch).backward()
            nn.utils.clip_grad_norm_(answerer.parameters(), protocol.clip)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    return answerers


@torch.no_grad()
def _count_right(
    answerer: Answerer, questions: Questions, source: TokenSource, split: str, rows: np.ndarray, batch: int
) -> dict[str, int]:
    """Returns how many questions of each kind about these drawings the answerer answers rightly."""
    hits = np.zeros(len(questions.kinds), dtype=np.int64)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        asked = torch.from_numpy(questions.asked[split][0, part]).to(source.device)
        logits = answerer(source.tokens[split](part), asked)
        answered = torch.stack([place_logits.argmax(1) for place_logits in logits], 1).cpu().numpy()
        hits += (answered == questions.right[split][part]).sum(0)
    return questions.by_kind(hits)
